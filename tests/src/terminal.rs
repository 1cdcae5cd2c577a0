//! A program on a terminal: a pseudo-terminal whose screen is kept as a terminal emulator keeps it.

use crate::run::Run;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longest that anything is waited for.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// A program that runs on a terminal of its own.
pub struct OnTerminal {
    child: Child,
    terminal: File,
    /// Kept open, so that the screen outlives the program.
    other_end: File,
    screen: Arc<Mutex<vt100::Parser>>,
    before: Termios,
}

impl Run {
    /// Starts the program on a terminal of this size.
    #[track_caller]
    pub fn start_on_terminal(self, columns: u16, lines: u16) -> OnTerminal {
        let mut command = self.into_command();
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("its other end");
        let name = ptsname(&terminal, Vec::new()).expect("the name of its other end");
        let path = name.to_str().expect("a path");
        let other_end = OpenOptions::new().read(true).write(true).open(path).expect("the other end");
        resize(&other_end, columns, lines);
        let before = tcgetattr(&other_end).expect("a terminal");
        let end = || Stdio::from(other_end.try_clone().expect("the same end once more"));
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm-256color").process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let screen = Arc::new(Mutex::new(vt100::Parser::new(lines, columns, 0)));
        let terminal = File::from(terminal);
        let mut output = terminal.try_clone().expect("the same terminal once more");
        let seen = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                seen.lock().expect("no panic elsewhere").process(&bytes[..length]);
            }
        });
        OnTerminal { child, terminal, other_end, screen, before }
    }
}

fn resize(terminal: &File, columns: u16, lines: u16) {
    let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).expect("a terminal of that size");
}

impl OnTerminal {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What is on the screen now.
    pub fn screen(&self) -> vt100::Screen {
        self.screen.lock().expect("no panic elsewhere").screen().clone()
    }

    /// The screen's lines, without spaces at their ends.
    pub fn lines(&self) -> Vec<String> {
        self.screen().contents().lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits until the screen is as `condition` says, and gives its lines.
    #[track_caller]
    pub fn wait_until(&self, condition: impl Fn(&[String]) -> bool) -> Vec<String> {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            let lines = self.lines();
            if condition(&lines) {
                return lines;
            }
            assert!(Instant::now() < deadline, "the screen never was as wanted:\n{}", lines.join("\n"));
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).expect("a terminal to type on");
    }

    /// Gives the terminal another size.
    pub fn resize(&mut self, columns: u16, lines: u16) {
        self.screen.lock().expect("no panic elsewhere").screen_mut().set_size(lines, columns);
        resize(&self.other_end, columns, lines);
        // The kernel tells only those whose controlling terminal it is.
        self.signal(libc::SIGWINCH);
    }

    /// Sends the program a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its process id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    /// How the terminal treats what is typed and printed.
    pub fn manners(&self) -> Termios {
        tcgetattr(&self.other_end).expect("a terminal")
    }

    /// How it treated them before the program started.
    pub fn manners_before(&self) -> &Termios {
        &self.before
    }

    /// Waits for the program's end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + TIME_LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child to wait for") {
                // What it printed last may not have been read yet.
                thread::sleep(Duration::from_millis(50));
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end:\n{}", self.lines().join("\n"));
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
