//! Limits as users write them, from every source, for every way to name a GPU; and what a mistake says.

use std::fs;
use vcuda_tests::{Container, GIB, MIB, NOT_PERMITTED, Outcome, SUCCESS, World, program, skip};

fn devices(container: &Container) -> vcuda_tests::Run {
    container.run(World::Limited, program("devices"))
}

/// The total that each visible device shows.
pub fn totals(outcome: &Outcome) -> Vec<u64> {
    (0..outcome.number("count"))
        .map(|index| outcome.number(&format!("device_{index}_total")) as u64)
        .collect()
}

/// A mistake: CUDA is refused with a real code, and one line says what and where and what would be right.
#[track_caller]
pub fn assert_refused(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code(), 0, "the program itself goes on: {outcome:#?}");
    assert_eq!(outcome.number("init"), NOT_PERMITTED, "{outcome:#?}");
    assert_eq!(outcome.number("init_again"), NOT_PERMITTED, "{outcome:#?}");
    let [line] = outcome.complaints()[..] else { panic!("one line, not {:?}", outcome.stderr) };
    assert!(line.starts_with("vcuda: "), "{line}");
    for word in words {
        assert!(line.contains(word), "\"{word}\" is not in: {line}");
    }
    assert!(line.contains("; "), "what would be right? {line}");
}

#[test]
fn mistakes_in_the_variable_are_told_and_cuda_is_refused() {
    for (limit, words) in [
        ("4Gb8", vec!["VCUDA_MEMORY_LIMIT", "4Gb8"]),
        ("", vec!["VCUDA_MEMORY_LIMIT"]),
        ("-1GiB", vec!["VCUDA_MEMORY_LIMIT"]),
        ("0", vec!["VCUDA_MEMORY_LIMIT"]),
        ("101%", vec!["VCUDA_MEMORY_LIMIT"]),
        ("99999999999999999999GiB", vec!["VCUDA_MEMORY_LIMIT"]),
        ("7=1GiB", vec!["VCUDA_MEMORY_LIMIT", "7"]),
        ("GPU-00000000-1111-2222-3333-444444444444=1GiB", vec!["VCUDA_MEMORY_LIMIT", "GPU-00000000"]),
        ("0=1GiB,0=2GiB", vec!["VCUDA_MEMORY_LIMIT", "twice"]),
        ("0=1GiB,2GiB", vec!["VCUDA_MEMORY_LIMIT"]),
    ] {
        let container = Container::new().limit(limit);
        assert_refused(&devices(&container).finish(), &words);
        assert!(container.gpu(0).peak_bytes < 100 * MIB, "\"{limit}\" gave the program the GPU");
    }
}

#[test]
fn mistakes_in_the_share_are_told_and_cuda_is_refused() {
    for (share, words) in [
        ("", vec!["is empty"]),
        ("0", vec!["\"0\"", "no GPU time", "write 1 to 100, such as 30"]),
        ("-30", vec!["\"-30\"", "negative"]),
        ("100.1", vec!["\"100.1\"", "more than the whole GPU"]),
        ("half", vec!["\"half\"", "not a percentage"]),
        ("3e1", vec!["\"3e1\""]),
        ("NaN", vec!["\"NaN\""]),
        ("30.00001", vec!["four decimals"]),
        ("7=30", vec!["there is no GPU 7"]),
        ("GPU-00000000-1111-2222-3333-444444444444=30", vec!["there is no GPU-00000000"]),
        ("0=30,0=50", vec!["twice"]),
        ("0=30,50", vec!["\"50\" does not say which GPU"]),
    ] {
        // Beside a limit that is right, and alone.
        for container in [Container::new(), Container::new().no_limit()] {
            let outcome = devices(&container).env("VCUDA_CORE_LIMIT", share).finish();
            assert_refused(&outcome, &[&["VCUDA_CORE_LIMIT"], &words[..]].concat());
            assert!(container.gpu(0).peak_bytes < 100 * MIB, "\"{share}\" gave the program the GPU");
        }
    }
    let container = Container::new().no_limit();
    let outcome = devices(&container).env("CUDA_DEVICE_SM_LIMIT", "lots").finish();
    assert_refused(&outcome, &["CUDA_DEVICE_SM_LIMIT", "\"lots\"", "not a percentage"]);
}

#[test]
fn a_share_alone_leaves_the_memory_as_it_is() {
    let container = Container::new().no_limit();
    let bare = totals(&container.run(World::Bare, program("devices")).finish().clean());
    for (variable, share) in
        [("VCUDA_CORE_LIMIT", "30"), ("VCUDA_CORE_LIMIT", "1=12.5%"), ("CUDA_DEVICE_SM_LIMIT_0", "30")]
    {
        let outcome = devices(&container).env(variable, share).finish().clean();
        assert_eq!(totals(&outcome), bare, "{variable}={share}");
    }
    let limited = Container::new().limit("1=1GiB");
    let outcome = devices(&limited).env("VCUDA_CORE_LIMIT", "0=30").finish().clean();
    assert_eq!(totals(&outcome), [bare[0], GIB]);
}

#[test]
fn a_gpu_may_be_shared_without_any_limit() {
    let container = Container::new().no_limit();
    let bare = totals(&container.run(World::Bare, program("devices")).finish().clean());
    for (variable, text, sharing) in [
        ("VCUDA_WEIGHT", "60", ["weight 60", "weight 60"]),
        ("VCUDA_ELASTIC", "true", ["elastic, weight 100", "elastic, weight 100"]),
        ("VCUDA_PRIORITY", "0=normal,1=high", ["weight 100", "weight 100, high priority"]),
        ("CUDA_TASK_PRIORITY", "0", ["weight 100, high priority"; 2]),
    ] {
        let outcome = devices(&container).env(variable, text).finish().clean();
        assert_eq!(totals(&outcome), bare, "{variable}={text}");
        let devices = container.snapshot().devices;
        let seen = devices.iter().map(|device| {
            assert_eq!((device.limit_bytes, device.compute.share_ppm), (None, None));
            device.compute.sharing.expect("it is shared").to_string()
        });
        assert_eq!(seen.collect::<Vec<_>>(), sharing, "{variable}={text}");
    }
    for (variable, text, problem) in [
        ("VCUDA_WEIGHT", "10001", "\"10001\" is no weight"),
        ("VCUDA_ELASTIC", "yes", "\"yes\" is neither true nor false"),
        ("VCUDA_PRIORITY", "2=high", "there is no GPU 2"),
    ] {
        let outcome = devices(&container).env(variable, text).finish();
        assert_refused(&outcome, &[variable, problem]);
    }
    let container = Container::new().no_limit();
    devices(&container).env("CUDA_TASK_PRIORITY", "1").finish().clean();
    assert!(!container.control_path().exists(), "what is usual is no limit");
}

#[test]
fn all_of_the_time_is_no_limit() {
    let container = Container::new().no_limit();
    devices(&container).env("VCUDA_CORE_LIMIT", "100").finish().clean();
    assert!(!container.control_path().exists(), "nothing is limited, so nothing is counted");
    devices(&container).env("VCUDA_CORE_LIMIT", "99.9999").finish().clean();
    assert!(container.control_path().exists());
}

#[test]
fn every_call_after_a_mistake_is_refused_and_said_once() {
    let container = Container::new().limit("nonsense");
    let outcome = container.run(World::Limited, program("edge_cases")).arg("answers").finish();
    assert_eq!(outcome.code(), 3, "cuInit must not succeed");
    assert!(outcome.stdout.contains(&format!("failed {NOT_PERMITTED} cuInit(0)")), "{outcome:#?}");
    assert_eq!(outcome.complaints().len(), 1, "{outcome:#?}");
}

#[test]
fn amounts_are_read_in_every_unit() {
    for (text, bytes) in [
        ("1GiB", GIB),
        ("1024MiB", GIB),
        ("1G", GIB),
        ("1073741824", GIB),
        ("1073741824B", GIB),
        ("1048576KiB", GIB),
        ("25%", 4 * GIB),
        ("1.5GiB", GIB + 512 * MIB),
    ] {
        let container = Container::new().limit(text);
        let outcome = devices(&container).finish().clean();
        let total = totals(&outcome)[0];
        let is_share = text.ends_with('%');
        let close = if is_share { total.abs_diff(bytes) < 64 * MIB } else { total == bytes };
        assert!(close, "{text} is {total} bytes");
    }
}

#[test]
fn limits_by_index_and_uuid_follow_the_gpu_however_it_is_made_visible() {
    let container = Container::new().gpus("8GiB,12GiB,16GiB");
    let [first, second, third] = [0, 1, 2].map(|index| container.uuid(index));
    let container = container.limit(&format!("0=1GiB,{second}=2GiB,2=50%"));
    let whole = totals(&devices(&container).finish().clean());
    assert_eq!(whole[..2], [GIB, 2 * GIB]);
    let half = whole[2];
    assert!(half.abs_diff(8 * GIB) < 100 * MIB, "{half}");
    for (visible, expected) in [
        ("2,0".to_owned(), vec![half, GIB]),
        ("1".to_owned(), vec![2 * GIB]),
        (format!("{third},{first}"), vec![half, GIB]),
        (second.clone(), vec![2 * GIB]),
        ("0,1,-1,2".to_owned(), vec![GIB, 2 * GIB]),
    ] {
        let outcome = devices(&container).env("CUDA_VISIBLE_DEVICES", &visible).finish().clean();
        assert_eq!(totals(&outcome), expected, "CUDA_VISIBLE_DEVICES={visible}");
    }
}

#[test]
fn devices_keep_their_names_count_and_order() {
    let container = Container::new().gpus("H100,T4,L4");
    let lines = |outcome: &Outcome| {
        let is_identity =
            |line: &&str| line.contains("_uuid ") || line.contains("_name ") || line.starts_with("count");
        outcome.stdout.lines().filter(is_identity).map(str::to_owned).collect::<Vec<_>>()
    };
    let bare = container.run(World::Bare, program("devices")).finish().clean();
    assert_eq!(lines(&bare).len(), 8, "{bare:#?}");
    assert_eq!(lines(&bare), lines(&devices(&container).finish().clean()));
}

#[test]
fn the_limits_file_outranks_the_environment() {
    let container = Container::new().limit("4GiB");
    let file = container.directory().join("limits.json");
    let uuid = container.uuid(1);
    fs::write(
        &file,
        format!(
            r#"{{"version":1,"default":{{"memory":"1GiB"}},"devices":{{"{uuid}":{{"memory":"2GiB"}}}}}}"#
        ),
    )
    .expect("a limits file");
    let outcome = devices(&container).env("VCUDA_LIMITS_FILE", &file).finish().succeeded();
    assert_eq!(totals(&outcome), [GIB, 2 * GIB]);
    let [line] = outcome.complaints()[..] else { panic!("one warning, not {:?}", outcome.stderr) };
    assert!(line.contains("VCUDA_MEMORY_LIMIT is ignored"), "{line}");
    let outcome =
        devices(&container).env("VCUDA_LIMITS_FILE", &file).without("VCUDA_MEMORY_LIMIT").finish().clean();
    assert_eq!(totals(&outcome), [GIB, 2 * GIB]);
}

#[test]
fn mistakes_in_the_limits_file_are_told_with_their_place() {
    for (text, words) in [
        ("{", vec!["limits.json:1", "not JSON"]),
        (r#"{"version":2}"#, vec!["limits.json", "version"]),
        ("{\"version\":1,\n \"default\":{\"memory\":\"4X\"}}", vec!["limits.json:2", "4X"]),
        (r#"{"version":1,"defaults":{}}"#, vec!["limits.json", "defaults"]),
        (r#"{"version":1,"default":{}}"#, vec!["limits.json:1:14", "sets no limit"]),
        ("{\"version\":1,\n \"default\":{\"cores\":0}}", vec!["limits.json:2:13: default.cores", "\"0\""]),
        (r#"{"version":1,"default":{"cores":101}}"#, vec!["default.cores", "more than the whole GPU"]),
        (r#"{"version":1,"default":{"cores":[30]}}"#, vec!["default.cores: is an array"]),
        (
            r#"{"version":1,"default":{"memory":"1GiB"},"devices":{"GPU-12345678":{"cores":30}}}"#,
            vec!["limits.json:1:69", "GPU-12345678"],
        ),
        (
            r#"{"version":1,"devices":{"GPU-12345678":{"memory":"1GiB"}}}"#,
            vec!["limits.json", "GPU-12345678"],
        ),
    ] {
        let container = Container::new().no_limit();
        let file = container.directory().join("limits.json");
        fs::write(&file, text).expect("a limits file");
        assert_refused(&devices(&container).env("VCUDA_LIMITS_FILE", &file).finish(), &words);
    }
    let container = Container::new().no_limit();
    let missing = devices(&container).env("VCUDA_LIMITS_FILE", "/nowhere/limits.json").finish();
    assert_refused(&missing, &["VCUDA_LIMITS_FILE", "/nowhere/limits.json"]);
}

#[test]
fn the_systems_limits_file_is_found_without_any_variable() {
    let container = Container::new().no_limit();
    let file = container.directory().join("limits.json");
    let control = container.directory().join("system-control");
    let text =
        format!(r#"{{"version":1,"control_file":"{}","default":{{"memory":"1GiB"}}}}"#, control.display());
    fs::write(&file, text).expect("a limits file");
    // A private /etc, so that nothing outside the test sees it.
    let script = format!(
        "mount -t tmpfs none /etc && mkdir /etc/vcuda && cp '{}' /etc/vcuda/limits.json && exec \"$@\"",
        file.display()
    );
    let probe =
        container.run(World::Bare, "unshare").args(["-m", "sh", "-c", &script, "sh", "true"]).finish();
    if !probe.status.success() {
        return skip("no mount namespace can be made here");
    }
    let run = container
        .run(World::Limited, "unshare")
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(program("devices"));
    let outcome = run.without("VCUDA_CONTROL_FILE").finish().clean();
    assert_eq!(totals(&outcome), [GIB, GIB]);
    assert!(control.exists(), "the file names the control file too");
    let run = container
        .run(World::Limited, "unshare")
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(program("devices"));
    let outcome = run.env("VCUDA_MEMORY_LIMIT", "8GiB").finish().succeeded();
    assert_eq!(totals(&outcome), [GIB, GIB], "no variable is a way out");
}

#[test]
fn hamis_names_work() {
    let container = Container::new().no_limit();
    let limited = |variables: &[(&str, &str)]| {
        let run = variables.iter().fold(devices(&container), |run, (name, value)| run.env(name, value));
        totals(&run.finish().clean())
    };
    assert_eq!(limited(&[("CUDA_DEVICE_MEMORY_LIMIT", "1g")]), [GIB, GIB]);
    assert_eq!(
        limited(&[("CUDA_DEVICE_MEMORY_LIMIT_0", "1024m"), ("CUDA_DEVICE_MEMORY_LIMIT_1", "2g")]),
        [GIB, 2 * GIB]
    );
    // What its device plugin sets for a pod that asked for no share, and for one that did.
    assert_eq!(limited(&[("CUDA_DEVICE_MEMORY_LIMIT", "1g"), ("CUDA_DEVICE_SM_LIMIT", "0")]), [GIB, GIB]);
    assert_eq!(limited(&[("CUDA_DEVICE_MEMORY_LIMIT", "1g"), ("CUDA_DEVICE_SM_LIMIT", "30")]), [GIB, GIB]);
    let run = devices(&container).env("CUDA_DEVICE_SM_LIMIT", "30");
    let outcome = run.env("GPU_CORE_UTILIZATION_POLICY", "disable").finish().succeeded();
    let [line] = outcome.complaints()[..] else { panic!("one warning, not {:?}", outcome.stderr) };
    assert!(line.contains("GPU_CORE_UTILIZATION_POLICY=disable"), "{line}");
    let shared = container.directory().join("hami.cache");
    let run = devices(&container).env("CUDA_DEVICE_MEMORY_LIMIT", "1g").without("VCUDA_CONTROL_FILE");
    run.env("CUDA_DEVICE_MEMORY_SHARED_CACHE", &shared).finish().clean();
    assert!(
        container.directory().join("hami.cache.vcuda").exists(),
        "beside the name, never in HAMi's own file"
    );
    assert!(!shared.exists());
}

#[test]
fn a_limited_gpu_beside_an_unlimited_one() {
    let container = Container::new().limit("1=1GiB");
    let outcome = devices(&container).finish().clean();
    assert!(totals(&outcome)[0] > 15 * GIB);
    assert_eq!(totals(&outcome)[1], GIB);
    // Ordinal 0 is the unlimited GPU.
    let run = container.run(World::Limited, program("memory_paths")).args(["linear", "64", "3072"]);
    assert_eq!(run.finish().clean().number("refused"), SUCCESS);
    let run = container.run(World::Limited, program("memory_paths")).args(["linear", "64", "3072"]);
    let outcome = run.env("CUDA_VISIBLE_DEVICES", "1").finish().clean();
    assert_eq!(outcome.number("refused"), vcuda_tests::OUT_OF_MEMORY);
}

#[test]
fn without_a_driver_nothing_is_said_and_nothing_crashes() {
    let container = Container::new();
    let script =
        "import ctypes\ntry:\n    ctypes.CDLL('libcuda.so.1')\nexcept OSError as error:\n    print(error)";
    let [bare, limited] = World::BOTH.map(|world| {
        container.run(world, "python3").args(["-c", script]).without("LD_LIBRARY_PATH").finish().clean()
    });
    assert_eq!(bare.stdout, limited.stdout);
    // A program that holds the hook all the same gets the answer of a machine without a driver.
    let script = "import ctypes; print(ctypes.CDLL(None).cuInit(0))";
    let run =
        container.run(World::Limited, "python3").args(["-c", script]).without("LD_LIBRARY_PATH").finish();
    assert_eq!(run.code(), if run.stdout.is_empty() { 1 } else { 0 }, "{run:#?}");
    assert_ne!(run.stdout, "0\n", "no driver can't be started");
}
