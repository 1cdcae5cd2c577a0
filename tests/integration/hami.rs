//! The library in the place of HAMi's own: with the variables and mounts of HAMi's device plugin, which Volcano's has too.
//!
//! One of its mounts is left out: `/tmp/vgpulock`, where all containers of a node lock each other out. Nothing here opens it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use vcuda_tests::{
    Container, GIB, MIB, OUT_OF_MEMORY, Outcome, Run, SUCCESS, World, artefacts, program, skip,
};

/// Where the plugin's mounts are in a container.
const CACHE: &str = "/usr/local/vgpu/7a0c6b43-5b1c-4bd5-9c36-3a7f6f3b8a51.cache";
/// As the plugin mounts them: a directory of the container's own, in it the library, and a preload file.
const MOUNTS: &str = r#"set -e
mount -t tmpfs none /usr/local && mkdir /usr/local/vgpu && mount --bind "$DIRECTORY" /usr/local/vgpu
touch /usr/local/vgpu/libvgpu.so
mount --bind "$LIBRARY" /usr/local/vgpu/libvgpu.so && mount -o remount,bind,ro /usr/local/vgpu/libvgpu.so
mount -t tmpfs none /etc && touch /etc/ld.so.preload
mount --bind "$PRELOAD" /etc/ld.so.preload && mount -o remount,bind,ro /etc/ld.so.preload
unset DIRECTORY LIBRARY PRELOAD
exec "$@""#;

/// A container that HAMi's plugin was asked for.
struct Pod {
    container: Container,
    /// Name and value of what it sets, but for the limits.
    variables: Vec<(String, String)>,
}

impl Pod {
    /// GPUs of the machine, in the plugin's order, with MiB of each. `None` where no mounts can be made.
    fn new(container: Container, granted: &[(usize, u64)], cores: u32) -> Option<Pod> {
        let uuids: Vec<_> = granted.iter().map(|&(gpu, _)| container.uuid(gpu)).collect();
        let mut variables = vec![
            ("NVIDIA_VISIBLE_DEVICES".to_owned(), uuids.join(",")),
            ("CUDA_DEVICE_SM_LIMIT".to_owned(), cores.to_string()),
            ("CUDA_DEVICE_MEMORY_SHARED_CACHE".to_owned(), CACHE.to_owned()),
        ];
        let limit = |(index, &(_, mib))| (format!("CUDA_DEVICE_MEMORY_LIMIT_{index}"), format!("{mib}m"));
        variables.extend(granted.iter().enumerate().map(limit));
        let pod = Pod { container, variables };
        fs::create_dir(pod.directory()).expect("a directory");
        fs::set_permissions(pod.directory(), Permissions::from_mode(0o777)).expect("a directory");
        fs::write(pod.preload(), "/usr/local/vgpu/libvgpu.so\n").expect("a file");
        let probe = pod.run("true", &[]).finish();
        if !probe.status.success() {
            skip("no mount namespace can be made here");
            return None;
        }
        Some(pod)
    }

    /// The plugin's directory for the container, on the machine.
    fn directory(&self) -> PathBuf {
        self.container.directory().join("containers")
    }

    fn preload(&self) -> PathBuf {
        self.container.directory().join("ld.so.preload")
    }

    /// The control file, on the machine.
    fn control(&self) -> PathBuf {
        self.directory().join(format!("{}.vcuda", CACHE.rsplit('/').next().expect("a name")))
    }

    /// A program in the pod, with variables that the pod's author added.
    fn run(&self, program: &str, added: &[(&str, &str)]) -> Run {
        let run = self.container.run(World::Bare, "unshare").args(["-m", "sh", "-c", MOUNTS, "sh", program]);
        let run = run.env("DIRECTORY", self.directory()).env("PRELOAD", self.preload());
        let run = run.env("LIBRARY", &artefacts().library);
        let run = self.variables.iter().fold(run, |run, (name, value)| run.env(name, value));
        added.iter().fold(run, |run, (name, value)| run.env(name, value))
    }
}

fn path_of(name: &str) -> String {
    program(name).to_str().expect("a path").to_owned()
}

fn totals(outcome: &Outcome) -> Vec<u64> {
    let total = |index| outcome.number(&format!("device_{index}_total")) as u64;
    (0..outcome.number("count")).map(total).collect()
}

#[test]
fn a_pod_has_the_limits_that_the_plugin_granted() {
    let container = Container::new().no_limit();
    let Some(pod) = Pod::new(container, &[(0, 3000), (1, 1024)], 0) else { return };
    let told = pod.run(&path_of("devices"), &[]).finish().clean();
    assert_eq!(totals(&told), [3000 * MIB, GIB]);
    let allocate = ["linear", "64", "8192"];
    let got = pod.run(&path_of("memory_paths"), &[]).args(allocate).finish().clean();
    assert_eq!(got.number("refused"), OUT_OF_MEMORY);
    assert!((2300..3000).contains(&got.number("got_mib")), "{got:#?}");
    assert!(pod.control().exists(), "beside the file of HAMi's own library, which is another");
    assert!(!pod.directory().join(CACHE.rsplit('/').next().unwrap_or_default()).exists());
}

#[test]
fn limits_are_for_the_gpus_that_the_plugin_means() {
    let container = Container::new().gpus("8GiB,12GiB,16GiB").no_limit();
    // In the order of nvidia-smi, these two are the other way round, and HAMi's own library takes the one's for the other's.
    let Some(pod) = Pod::new(container, &[(2, 1024), (0, 2048)], 0) else { return };
    let told = pod.run(&path_of("devices"), &[]).finish().clean();
    let unlimited = totals(&told)[1];
    assert_eq!(totals(&told), [2 * GIB, unlimited, GIB]);
    assert!(unlimited > 11 * GIB, "a GPU that is not the pod's: a runtime would not show it");
}

#[test]
fn all_programs_of_a_pod_spend_from_one_quota() {
    let container = Container::new().gpus("16GiB").no_limit();
    let Some(pod) = Pod::new(container, &[(0, 4096)], 50) else { return };
    let mut first = pod.run(&path_of("memory_paths"), &[]).args(["linear", "64", "2048", "hold"]).start();
    first.wait_for("full");
    // Whatever it does to its variables for the linker, /etc/ld.so.preload has the library.
    let second = pod.run(&path_of("memory_paths"), &[("LD_PRELOAD", "")]);
    let second = second.args(["linear", "64", "8192"]).finish().clean();
    assert_eq!(second.number("refused"), OUT_OF_MEMORY);
    let (taken, left) = (first.number("got_mib"), second.number("got_mib"));
    assert!(taken == 2048 && (512..2048).contains(&left), "{taken} and {left} MiB of 4096");
    let control = vcuda_core::control::Control::open_existing(pod.control()).expect("a control file");
    let snapshot = control.snapshot().expect("a whole file");
    let device = &snapshot.devices[0];
    assert_eq!(device.limit_bytes, Some(4 * GIB));
    assert!(device.peak_bytes <= 4 * GIB, "{device:?}");
    assert_eq!(device.compute.share_ppm, Some(500_000), "{device:?}");
    first.finish().clean();
}

#[test]
fn what_hami_lets_a_pod_switch_off_stays_on_and_is_told() {
    let container = Container::new().gpus("16GiB").no_limit();
    let Some(pod) = Pod::new(container, &[(0, 1024)], 30) else { return };
    let allocate = |added: &[(&str, &str)]| {
        pod.run(&path_of("memory_paths"), added).args(["linear", "64", "8192"]).finish()
    };
    for (added, words) in [
        (("CUDA_DISABLE_CONTROL", "true"), "vcuda: CUDA_DISABLE_CONTROL=true: limits hold all the same"),
        (("CUDA_OVERSUBSCRIBE", "true"), "vcuda: CUDA_OVERSUBSCRIBE=true: a limit above the GPU's memory"),
        (("GPU_CORE_UTILIZATION_POLICY", "disable"), "vcuda: GPU_CORE_UTILIZATION_POLICY=disable: "),
    ] {
        let outcome = allocate(&[added]).succeeded();
        assert_eq!(outcome.number("refused"), OUT_OF_MEMORY);
        let [line] = outcome.complaints()[..] else { panic!("one warning, not {:?}", outcome.stderr) };
        assert!(line.starts_with(words), "{line}");
    }
    // Nothing of this changes anything here.
    let quiet = [("CUDA_TASK_PRIORITY", "1"), ("ACTIVE_OOM_KILLER", "true"), ("LIBCUDA_LOG_LEVEL", "4")];
    assert_eq!(allocate(&quiet).clean().number("refused"), OUT_OF_MEMORY);
    let unlimited = Pod::new(Container::new().gpus("16GiB").no_limit(), &[(0, 0)], 0).expect("as above");
    let outcome =
        unlimited.run(&path_of("memory_paths"), &[]).args(["linear", "64", "8192"]).finish().clean();
    assert_eq!(outcome.number("refused"), SUCCESS, "0 is no limit, as HAMi has it");
}
