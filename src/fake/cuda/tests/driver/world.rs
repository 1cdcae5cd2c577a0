//! Every test is a process of its own, on a machine of its own: the test starts this binary again to run its
//! body, so that environment, driver state and machine are fresh.

use crate::api::{self, DIRECTORY_VARIABLE};
use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use tempfile::TempDir;

const BODY: &str = "VCUDA_FAKE_TEST_BODY";

/// A machine with a name for its file, and what programs on it are told.
pub struct World {
    /// The test, as the test runner knows it.
    test: &'static str,
    directory: TempDir,
    environment: Vec<(String, String)>,
}

impl World {
    /// Two GPUs of 4 GiB, for the test of this path; see [`world!`].
    pub fn new(path: &'static str) -> World {
        let (_crate, test) = path.split_once("::").expect("a path within this crate");
        World { test, directory: tempfile::tempdir().unwrap(), environment: Vec::new() }
            .with("VCUDA_FAKE_GPUS", "2x4GiB")
    }

    /// Sets a variable for the world's programs.
    pub fn with(mut self, name: &str, value: &str) -> World {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn command(&self, body: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([self.test, "--exact", "--nocapture", "--test-threads=1"]);
        command.env(BODY, body).env(DIRECTORY_VARIABLE, api::directory());
        command.env("VCUDA_FAKE_STATE", self.path()).env_remove("CUDA_VISIBLE_DEVICES");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The machine's file.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("machine")
    }

    /// Runs a body of this test in a process of its own, and has it succeed.
    pub fn run(&self, body: &str) -> String {
        let output = self.command(body).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{body}: {text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    /// Starts a body of this test and waits until it has said that it is ready.
    pub fn start(&self, body: &str) -> Running {
        let mut child = self.command(body).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut running = Running { child, lines };
        running.wait_for("ready");
        running
    }

    /// Reads the machine's state as the state program prints it.
    pub fn state(&self) -> serde_json::Value {
        let mut command = Command::new(api::directory().join("vcuda-fake-state"));
        command.env("VCUDA_FAKE_STATE", self.path());
        let output =
            command.envs(self.environment.iter().map(|(name, value)| (name, value))).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A body under way.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// Waits for a line that has `word` in it, and gives the rest of it.
    pub fn wait_for(&mut self, word: &str) -> String {
        for line in self.lines.by_ref() {
            if let Some((_, rest)) = line.unwrap().split_once(word) {
                return rest.trim().to_owned();
            }
        }
        panic!("the program ended without saying '{word}'");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Which body of the test this process is to run; `None` in the test itself.
pub fn body() -> Option<String> {
    std::env::var(BODY).ok()
}

/// Says that the body is ready, and waits to be killed.
pub fn hold() -> ! {
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// The world of the test of this name in this module.
#[macro_export]
macro_rules! world {
    ($test:ident) => {
        $crate::world::World::new(concat!(module_path!(), "::", stringify!($test)))
    };
}

/// A test whose one body runs in a world of two GPUs of 4 GiB, with more in its environment if asked for.
#[macro_export]
macro_rules! driver_test {
    ($(#[$meta:meta])* fn $name:ident() $(with $(($variable:literal, $value:literal))+)? $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            if $crate::world::body().is_some() {
                return $body;
            }
            let world = $crate::world!($name);
            $( $( let world = world.with($variable, $value); )+ )?
            world.run("only");
        }
    };
}
