//! Faults of GPUs, from the driver's event to what the scheduler and Prometheus are told: the agent as a process, on the
//! simulated driver.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vcuda_fake_cluster::{Cluster as Server, write_kubeconfig};

use crate::world::Node;

const OURS: &str = "/apis/resource.k8s.io/v1/resourceslices/n1-gpu.vcuda.dev-0";
/// What a loaded machine may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the simulated driver is, built first.
fn driver() -> &'static Path {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/fake-driver");
        let output = Command::new(script).output().expect("scripts/fake-driver runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a path").trim().into()
    })
}

/// A node of a cluster, with two simulated GPUs.
struct Machine {
    node: Node,
    server: Server,
    kubeconfig: PathBuf,
}

impl Machine {
    async fn new() -> Machine {
        let (node, server) = (Node::new(), Server::default());
        fs::create_dir_all(node.path("kubelet/plugins_registry")).unwrap();
        server.put("/api/v1/nodes/n1", json!({"metadata": {"uid": "node-uid"}}));
        let address = server.serve(([127, 0, 0, 1], 0).into()).await;
        let kubeconfig = write_kubeconfig(&node.path(""), address).unwrap();
        Machine { node, server, kubeconfig }
    }

    /// A command that sees nothing but this machine.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, _) in std::env::vars_os() {
            if ["LD_", "VCUDA_", "CUDA_"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
                command.env_remove(name);
            }
        }
        command.env("LD_LIBRARY_PATH", driver()).env("VCUDA_FAKE_STATE", self.node.path("state"));
        command.env("VCUDA_FAKE_GPUS", "2");
        command
    }

    fn agent_command(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_vcuda-node"));
        command.arg("--shares").arg(self.node.path("vcuda/shares"));
        command
    }

    fn start(&self) -> Agent {
        let log = self.node.path(&format!("log-{:?}", Instant::now()));
        let path = |name: &str| self.node.path(name);
        let child = self
            .agent_command()
            .args(["--listen", "127.0.0.1:0", "--idle-release", "off", "--kubernetes-node", "n1"])
            .arg("--users-under")
            .arg(path("users"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--kubelet-directory")
            .arg(path("kubelet"))
            .arg("--cdi")
            .arg(path("cdi"))
            .arg("--library")
            .arg(path("libvcuda.so"))
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Agent { child, log }
    }

    /// Lets something happen to a GPU.
    fn befall(&self, words: &[&str]) {
        let output = self.command(driver().join("vcuda-fake-state")).args(words).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    }

    /// What an admin says, and is answered.
    fn declare_well(&self, device: &str) -> (bool, String) {
        let output = self.agent_command().args(["--declare-well", device]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    /// The taints of both GPUs, once they are published.
    fn taints(&self) -> Option<[Value; 2]> {
        let slice = self.server.get(OURS)?;
        let of = |index: usize| slice["spec"]["devices"][index].get("taints").cloned().unwrap_or_default();
        slice["spec"]["devices"].as_array().filter(|devices| devices.len() == 2)?;
        Some([of(0), of(1)])
    }

    fn uuid(&self, index: usize) -> String {
        let slice = self.server.get(OURS).unwrap();
        let uuid = &slice["spec"]["devices"][index]["attributes"]["uuid"]["string"];
        uuid.as_str().unwrap().to_owned()
    }
}

/// An agent, killed in the end.
struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The value of the metric whose line begins like this.
    fn metric(&self, line: &str) -> Option<f64> {
        let log = self.log();
        let address: SocketAddr = log.split("serving http://").nth(1)?.split('/').next()?.parse().ok()?;
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }

    fn healthy(&self, uuid: &str) -> Option<f64> {
        self.metric(&format!("vcuda_device_healthy{{device_uuid=\"{uuid}\"}}"))
    }

    /// Waits until it hears of both GPUs.
    async fn hears(&self) {
        until(self, "both GPUs are heard of", || self.metric("vcuda_node_watched_gpus ") == Some(2.0)).await;
    }

    /// How often it has heard of an XID of a GPU.
    fn heard(&self, uuid: &str, xid: u64) -> Option<f64> {
        self.metric(&format!("vcuda_node_xids_total{{device_uuid=\"{uuid}\",xid=\"{xid}\"}}"))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(agent: &Agent, what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain: {what}\n{}", agent.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn taint(xid: u64) -> Value {
    json!([{"key": "gpu.vcuda.dev/unhealthy", "value": format!("xid-{xid}"), "effect": "NoSchedule"}])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_with_a_fault_is_out_of_service_until_it_is_declared_well() {
    let machine = Machine::new().await;
    let agent = machine.start();
    agent.hears().await;
    until(&agent, "both are published", || machine.taints().is_some()).await;
    let [first, second] = [machine.uuid(0), machine.uuid(1)];
    until(&agent, "both are well", || [&first, &second].map(|uuid| agent.healthy(uuid)) == [Some(1.0); 2])
        .await;

    // A program's own doing.
    machine.befall(&["--xid", "0=31"]);
    until(&agent, "XID 31 is heard of", || agent.heard(&first, 31) == Some(1.0)).await;
    assert_eq!(agent.healthy(&first), Some(1.0));

    machine.befall(&["--xid", "1=79"]);
    until(&agent, "a taint", || machine.taints() == Some([Value::Null, taint(79)])).await;
    assert_eq!([&first, &second].map(|uuid| agent.healthy(uuid)), [Some(1.0), Some(0.0)]);
    assert_eq!(agent.heard(&second, 79), Some(1.0));
    let log = agent.log();
    assert!(log.contains("XID 79, the GPU has fallen off the bus, at 20"), "{log}");
    assert!(log.contains(&format!("vcuda-node --declare-well {second}")), "{log}");
    assert!(!log.contains("XID 31"), "a program's own doing is no warning: {log}");

    // Killed, and no longer watched by anybody, the GPU stays what it is.
    agent.kill();
    machine.server.delete("/apis/resource.k8s.io/v1/resourceslices");
    let agent = machine.start();
    until(&agent, "slices", || machine.taints().is_some()).await;
    assert_eq!(machine.taints(), Some([Value::Null, taint(79)]), "also in the first slice that is published");
    until(&agent, "a metric", || agent.healthy(&second).is_some()).await;
    assert_eq!(agent.healthy(&second), Some(0.0));
    agent.hears().await;

    // More of the same GPU is remembered, and what it is called by stays.
    machine.befall(&["--xid", "1=154"]);
    until(&agent, "XID 154 is heard of", || agent.heard(&second, 154) == Some(1.0)).await;
    assert_eq!(machine.taints(), Some([Value::Null, taint(79)]));
    let file = machine.node.path("vcuda/faults").join(&second);
    let remembered: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(remembered["xids"], json!([79, 154]));

    let (is_done, said) = machine.declare_well(&first);
    assert!(!is_done && said.contains(&format!("no fault of {first} is remembered")), "{said}");
    assert!(said.contains(&format!("but of {second}")), "{said}");
    let (is_done, said) = machine.declare_well("the second");
    assert!(!is_done && said.contains("neither a UUID nor \"all\""), "{said}");
    let (is_done, said) = machine.declare_well(&second);
    assert!(is_done && said.contains(&format!("{second} is well: it had XID 79")), "{said}");
    until(&agent, "no taint", || machine.taints() == Some([Value::Null, Value::Null])).await;
    assert_eq!(agent.healthy(&second), Some(1.0));
    assert!(agent.log().contains(&format!("{second} was declared well")), "{}", agent.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_of_the_machine_mends_and_a_double_bit_error_is_xid_48() {
    let machine = Machine::new().await;
    let agent = machine.start();
    agent.hears().await;
    until(&agent, "both are published", || machine.taints().is_some()).await;
    machine.befall(&["--double-bit", "0"]);
    until(&agent, "a taint", || machine.taints() == Some([taint(48), Value::Null])).await;
    // Of a part of a GPU that is not divided: all of it.
    machine.befall(&["--xid", "1/3/0=94"]);
    until(&agent, "two taints", || machine.taints() == Some([taint(48), taint(94)])).await;
    agent.kill();

    // As if it had happened before the machine was started last.
    let file = machine.node.path("vcuda/faults").join(machine.uuid(0));
    let mut remembered: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    remembered["boot"] = json!("an earlier start");
    fs::write(&file, remembered.to_string()).unwrap();
    let agent = machine.start();
    until(&agent, "one taint", || machine.taints() == Some([Value::Null, taint(94)])).await;
    assert!(!file.exists());
    let expected = format!("the fault of {} is over, as the machine was started anew", machine.uuid(0));
    assert!(agent.log().contains(&expected), "{}", agent.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ignored_is_for_the_admin_to_say() {
    let machine = Machine::new().await;
    let run = |ignored: &str| {
        machine.agent_command().args(["--ignore-xids", ignored, "--declare-well", "all"]).output().unwrap()
    };
    assert!(run("79,13").status.success() && run("none").status.success());
    let wrong = String::from_utf8(run("79;13").stderr).unwrap();
    assert!(wrong.contains("is no XID; write numbers with commas between"), "{wrong}");
}
