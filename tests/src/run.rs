//! Starts a program, meets it at points it names, and waits for its end within a time limit.

use crate::outcome::{Outcome, value};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Longest that any one program of a test may take.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A program about to run.
pub struct Run {
    command: Command,
    input: String,
}

impl Run {
    pub(crate) fn new(command: Command) -> Run {
        Run { command, input: String::new() }
    }

    pub(crate) fn into_command(self) -> Command {
        self.command
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Run {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, arguments: I) -> Run {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// Removes a variable.
    pub fn without(mut self, name: &str) -> Run {
        self.command.env_remove(name);
        self
    }

    /// What the program reads from its standard input.
    pub fn input(mut self, text: impl Into<String>) -> Run {
        self.input = text.into();
        self
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn finish(mut self) -> Outcome {
        let input = std::mem::take(&mut self.input);
        let mut running = self.start();
        let mut stdin = running.stdin.take();
        let writer = thread::spawn(move || {
            // A program that doesn't read all of it is no mistake here.
            let _ = stdin.as_mut().map(|stdin| stdin.write_all(input.as_bytes()));
        });
        let outcome = running.finish();
        let _ = writer.join();
        outcome
    }

    /// Starts the program and leaves it running.
    #[track_caller]
    pub fn start(mut self) -> Running {
        // In a group of its own, so that nothing of it outlives the test.
        self.command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        let stdout = child.stdout.take().expect("a pipe was asked for");
        let mut stderr = child.stderr.take().expect("a pipe was asked for");
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        });
        let stderr = thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Running {
            stdin: child.stdin.take(),
            child,
            lines,
            stderr: Some(stderr),
            stdout: String::new(),
            deadline: Instant::now() + TIME_LIMIT,
        }
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Option<JoinHandle<String>>,
    stdout: String,
    deadline: Instant,
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program says `key` on a line.
    #[track_caller]
    pub fn wait_for(&mut self, key: &str) -> &mut Running {
        loop {
            match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.stdout.push_str(&line);
                    if value(line.trim_end(), key).is_some() {
                        return self;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.kill_group();
                    panic!("timed out waiting for \"{key}\" after {:?}", self.stdout);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.kill_group();
                    let stderr = self.stderr.take().and_then(|thread| thread.join().ok());
                    panic!("ended without \"{key}\": {:?} {stderr:?} {:?}", self.stdout, self.child.wait());
                }
            }
        }
    }

    /// Lets the program go on from where it waits.
    pub fn go_on(&mut self) -> &mut Running {
        // If it has ended meanwhile, the next wait says so.
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(b"\n"));
        self
    }

    /// Says a line to the program.
    pub fn say(&mut self, line: &str) -> &mut Running {
        // If it has ended meanwhile, the next wait says so.
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(format!("{line}\n").as_bytes()));
        self
    }

    /// What the program has written to standard error, when it ends; it is killed here.
    #[track_caller]
    pub fn stop(mut self) -> String {
        self.kill_group();
        let _ = self.child.wait();
        self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }

    /// What follows `key` in what the program said so far.
    #[track_caller]
    pub fn text(&self, key: &str) -> &str {
        value(&self.stdout, key).unwrap_or_else(|| panic!("no line \"{key} ...\" in {:?}", self.stdout))
    }

    /// The number that follows `key` in what the program said so far.
    #[track_caller]
    pub fn number(&self, key: &str) -> i64 {
        let text = self.text(key);
        text.parse::<f64>().unwrap_or_else(|_| panic!("\"{key} {text}\" has no number")) as i64
    }

    /// Kills the program where it stands, and all it started, and waits until they are gone.
    pub fn kill(mut self) {
        self.kill_group();
        let _ = self.child.wait();
        // Its output ends when the last of them has: after their memory and their locks.
        while let Ok(line) = self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now()))
        {
            self.stdout.push_str(&line);
        }
    }

    fn kill_group(&self) {
        // SAFETY: the group is the program's own, made when it was started.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
    }

    /// Lets the program go on past every further point and waits for its end.
    #[track_caller]
    pub fn finish(&mut self) -> Outcome {
        // More than any program waits; it may have ended already.
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(&[b'\n'; 16]));
        drop(self.stdin.take());
        loop {
            match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.stdout.push_str(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.kill_group();
                    panic!("timed out after {:?}", self.stdout);
                }
            }
        }
        let status = loop {
            match self.child.try_wait().expect("a child to wait for") {
                Some(status) => break status,
                None if Instant::now() > self.deadline => {
                    self.kill_group();
                    panic!("did not end after {:?}", self.stdout);
                }
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Outcome { stdout: std::mem::take(&mut self.stdout), stderr, status }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.kill_group();
            let _ = self.child.wait();
        }
    }
}
