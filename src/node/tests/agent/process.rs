//! The agent as a process: how it answers, and how it ends.

use crate::text::Metrics;
use crate::world::{GPU, World};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

/// An agent that looks at a world, and is killed in the end.
pub struct Agent {
    child: Child,
    stderr: Option<BufReader<ChildStderr>>,
    address: String,
}

impl Agent {
    fn start(world: &World, more: &[&str]) -> Agent {
        Agent::start_as(&[], Path::new(env!("CARGO_BIN_EXE_vcuda-node")), world, more)
    }

    /// Starts `binary` by a command that takes it and its arguments, if there is one.
    pub fn start_as(by: &[String], binary: &Path, world: &World, more: &[&str]) -> Agent {
        let mut words = by.iter().map(OsStr::new).chain([binary.as_os_str()]);
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .args(["--listen", "127.0.0.1:0", "--interval", "100ms"])
            .args(world.arguments())
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "ended without serving");
            if let Some((_, rest)) = line.split_once("serving http://") {
                break rest.trim_end().trim_end_matches("/metrics").to_owned();
            }
        };
        Agent { child, stderr: Some(stderr), address }
    }

    /// Status line, headers and body.
    fn request(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    fn get(&self, path: &str) -> (String, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    }

    /// Metrics for which `is_so`, within the time that a loaded machine may take.
    pub fn metrics_when(&self, is_so: impl Fn(&Metrics) -> bool) -> Metrics {
        let start = Instant::now();
        loop {
            let (head, body) = self.get("/metrics");
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let metrics = Metrics::parse(&body);
            if is_so(&metrics) {
                return metrics;
            }
            assert!(start.elapsed() < Duration::from_secs(30), "{metrics:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Its exit code and the rest of what it said.
    fn wait(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        if let Some(stderr) = &mut self.stderr {
            stderr.read_to_string(&mut rest).unwrap();
        }
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_answers_what_it_is_asked_and_nothing_else() {
    let world = World::new();
    world.slice(&world.user().join("control"));
    let agent = Agent::start(&world, &[]);
    let metrics = agent.metrics_when(|metrics| metrics.find("vcuda_node_slices", &[]) == Some(1.0));
    assert_eq!(metrics.get("vcuda_build_info", &["version=\""]), 1.0);
    assert_eq!(metrics.get("vcuda_node_job_healthy", &["task=\"slices\""]), 1.0);

    let (head, body) = agent.get("/metrics");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("# TYPE vcuda_container_allocations_denied_total counter\n"), "{body}");
    let (head, body) = agent.request(
        "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
         Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n\r\n",
    );
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(body.contains("# TYPE vcuda_container_allocations_denied counter\n"), "{body}");
    assert!(body.contains("# UNIT vcuda_container_memory_used_bytes bytes\n"), "{body}");
    assert!(body.ends_with("\n# EOF\n"), "{body}");

    assert_eq!(agent.get("/healthz").1, "ok\n");
    assert!(agent.get("/elsewhere").0.starts_with("http/1.1 404"));
    let (head, _) = agent.request("POST /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head"), "{head}");
    let (head, body) = agent.request("HEAD /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(head.starts_with("http/1.1 200") && body.is_empty(), "{head} {body}");
}

#[test]
fn it_ends_when_it_is_told_to() {
    for signal in ["TERM", "INT"] {
        let world = World::new();
        let agent = Agent::start(&world, &[]);
        agent.metrics_when(|metrics| metrics.find("vcuda_node_slices", &[]) == Some(0.0));
        // A connection that says nothing does not keep it.
        let _silent = TcpStream::connect(&agent.address).unwrap();
        let start = Instant::now();
        agent.signal(signal);
        let (code, rest) = agent.wait();
        assert_eq!(code, Some(0), "{rest}");
        assert!(rest.contains("ending"), "{rest}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

#[test]
fn counters_go_on_after_a_restart() {
    let world = World::new();
    let (path, state) = (world.user().join("control"), world.path("counters.json"));
    let refuse = |times: usize| {
        let control = world.slice(&path);
        let slot = control.claim("greedy").unwrap();
        let mut account = slot.account(control.device(GPU).unwrap()).unwrap().unwrap();
        (0..times).for_each(|_| account.count_refusal().unwrap());
    };
    let denied = |metrics: &Metrics| metrics.find("vcuda_container_allocations_denied_total", &[]);
    let options = ["--state-file", state.to_str().unwrap()];
    refuse(5);
    let agent = Agent::start(&world, &options);
    agent.metrics_when(|metrics| denied(metrics) == Some(5.0));
    // The file that counted them goes, and another one counts on.
    std::fs::remove_file(&path).unwrap();
    refuse(2);
    agent.metrics_when(|metrics| denied(metrics) == Some(7.0));
    agent.signal("TERM");
    assert_eq!(agent.wait().0, Some(0));
    refuse(1);
    let agent = Agent::start(&world, &options);
    agent.metrics_when(|metrics| denied(metrics) == Some(8.0));
}

#[test]
fn a_state_that_cant_be_saved_is_told() {
    let world = World::new();
    let agent = Agent::start(&world, &["--state-file", "/nonexistent/counters.json"]);
    agent.metrics_when(|metrics| metrics.find("vcuda_node_slices", &[]) == Some(0.0));
    agent.signal("TERM");
    let (code, log) = agent.wait();
    assert_eq!(code, Some(0));
    assert!(log.contains("can't be saved in /nonexistent/counters.json: No such file"), "{log}");
}

#[test]
fn it_goes_on_when_nobody_reads_its_log() {
    let world = World::new();
    let mut agent = Agent::start(&world, &["--log", "debug"]);
    agent.stderr = None;
    world.slice(&world.user().join("control"));
    std::fs::create_dir(world.path("shares/empty")).unwrap();
    std::fs::write(world.path("shares/empty/control"), "something else").unwrap();
    agent.metrics_when(|metrics| metrics.find("vcuda_node_unreadable_files", &[]) == Some(1.0));
    agent.signal("TERM");
    let (code, _) = agent.wait();
    assert_eq!(code, Some(0));
}

#[test]
fn trouble_is_told_once_and_when_it_is_over() {
    let world = World::new();
    let missing = world.path("later");
    let agent = Agent::start(&world, &["--directory", missing.to_str().unwrap()]);
    let label = format!("directory=\"{}\"", missing.display());
    let readable = |metrics: &Metrics| metrics.find("vcuda_node_directory_readable", &[&label]);
    agent.metrics_when(|metrics| readable(metrics) == Some(0.0));
    std::fs::create_dir(&missing).unwrap();
    agent.metrics_when(|metrics| readable(metrics) == Some(1.0));
    agent.signal("TERM");
    let (_, log) = agent.wait();
    assert_eq!(log.matches(&format!("can't look into {}", missing.display())).count(), 1, "{log}");
    assert_eq!(log.matches(&format!("{}: well again", missing.display())).count(), 1, "{log}");
}

#[test]
fn an_address_in_use_is_an_error_with_a_way_out() {
    let world = World::new();
    let agent = Agent::start(&world, &[]);
    let output = Command::new(env!("CARGO_BIN_EXE_vcuda-node"))
        .args(["--listen", &agent.address])
        .args(world.arguments())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("can't listen on {}", agent.address)), "{said}");
    assert!(said.contains("--listen") && said.contains("in use"), "{said}");
}

#[test]
fn options_can_be_set_in_the_environment() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_vcuda-node")).env("VCUDA_NODE_INTERVAL", "1h").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("must be between 100ms and 5min"), "{said}");
}
