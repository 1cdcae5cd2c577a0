//! Variables and the command line: what each outranks, and what is told of the others.

use super::*;

#[test]
fn nothing_configured_is_unlimited() {
    let limits = World::default().load().unwrap();
    assert!(limits.is_unlimited());
    assert_eq!(limits.source(), &Source::Nothing);
    assert_eq!(limits.log_level, LogLevel::Warn);
    assert_eq!(limits.resolve(&gpus()), Ok(vec![DeviceLimits::default(); 3]));
}

#[test]
fn what_a_command_line_says_outranks_the_variables_of_its_kind() {
    let world = World::variables(&[
        ("VCUDA_MEMORY_LIMIT", "not even an amount"),
        ("CUDA_DEVICE_MEMORY_LIMIT", "nor this"),
        ("CUDA_DEVICE_SM_LIMIT", "50"),
        ("CUDA_TASK_PRIORITY", "0"),
        ("VCUDA_WEIGHT", "no weight"),
        ("VCUDA_ELASTIC", "true"),
        ("VCUDA_CONTROL_FILE", "/mine"),
    ]);
    let environment = |name: &str| world.variables.get(name).cloned();
    let load = |overrides: Overrides| Limits::from_overrides(&overrides, &environment);
    let memory = Overrides {
        memory: Some(("--memory", "1=4GiB")),
        weight: Some(("--weight", "30")),
        ..Overrides::default()
    };
    let limits = load(memory).unwrap();
    assert_eq!(limits.entries_of(&gpus()).unwrap()[1].memory.unwrap().place, "--memory");
    assert_eq!(limits.entries_of(&gpus()).unwrap()[0].cores.unwrap().place, "CUDA_DEVICE_SM_LIMIT");
    assert_eq!(limits.control_file, None);
    let both = load(Overrides { cores: Some(("--cores", "30")), ..memory }).unwrap();
    assert_eq!(both.resolve(&gpus()).unwrap()[2].share, Share::from_ppm(300_000));
    let mistake = load(Overrides { cores: Some(("--cores", "half")), ..memory }).unwrap_err();
    assert!(mistake.to_string().starts_with("--cores: \"half\" is not a percentage; "), "{mistake}");
    assert_eq!(mistake.place(), "--cores");
    let shared = Overrides {
        elastic: Some(("--elastic", "false")),
        priority: Some(("--priority", "0=normal")),
        ..memory
    };
    let entries = load(shared).unwrap();
    let entries = entries.entries_of(&gpus()).unwrap();
    assert_eq!(entries[0].weight.unwrap().place, "--weight");
    assert_eq!(
        entries[0].elastic.map(|entry| (entry.place.as_str(), entry.value)),
        Some(("--elastic", false))
    );
    assert_eq!(entries[0].priority.map(|entry| entry.value), Some(Priority::Normal));
    assert!(entries[1].priority.is_none(), "nor what HAMi says of it");
}

#[test]
fn other_variables_that_are_mistakes() {
    let mistake = |name, value| World::variables(&[(name, value)]).mistake();
    assert!(mistake("VCUDA_MEMORY_LIMIT", "").starts_with("VCUDA_MEMORY_LIMIT: the amount is empty"));
    for path in ["", "job", "./job", "/dir/"] {
        assert!(mistake("VCUDA_CONTROL_FILE", path).contains("is not an absolute path of a file"), "{path}");
    }
    assert!(mistake("VCUDA_LIMITS_FILE", "").starts_with("VCUDA_LIMITS_FILE: "));
}

#[test]
fn log_levels() {
    let level = |text: &str| World::variables(&[("VCUDA_LOG", text)]).load().unwrap();
    let table = [("off", LogLevel::Off), ("error", LogLevel::Error), ("WARN", LogLevel::Warn)];
    for (text, expected) in table {
        assert_eq!(level(text).log_level, expected);
    }
    assert_eq!(level("info").log_level, LogLevel::Info);
    assert_eq!(level("debug").log_level, LogLevel::Debug);
    assert_eq!(level("loud").log_level, LogLevel::Warn);
    assert!(level("loud").warnings[0].contains("VCUDA_LOG: \"loud\" is no level"));
}
