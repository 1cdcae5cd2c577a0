//! Elastic shares, weights and priorities.

use super::*;

#[test]
fn sharing_is_told_where_anything_is_told_of_a_gpus_time() {
    let sharing = |pairs: &[(&str, &str)]| World::variables(pairs).sharing();
    assert_eq!(sharing(&[]), [None; 3]);
    assert_eq!(sharing(&[("VCUDA_MEMORY_LIMIT", "1GiB"), ("VCUDA_CORE_LIMIT", "100")]), [None; 3]);
    assert_eq!(
        sharing(&[("VCUDA_CORE_LIMIT", "0=30.9,1=0.5")]),
        [Some((false, 30, false)), Some((false, 1, false)), None]
    );
    assert_eq!(sharing(&[("VCUDA_ELASTIC", "true")]), [Some((true, 100, false)); 3]);
    assert_eq!(
        sharing(&[("VCUDA_ELASTIC", "1=1,2=0")]),
        [None, Some((true, 100, false)), Some((false, 100, false))]
    );
    assert_eq!(
        sharing(&[("VCUDA_WEIGHT", "0=7,GPU-cd=10000")]),
        [Some((false, 7, false)), None, Some((false, 10_000, false))]
    );
    assert_eq!(sharing(&[("VCUDA_PRIORITY", "high")]), [Some((false, 100, true)); 3]);
    assert_eq!(sharing(&[("VCUDA_PRIORITY", "normal")]), [Some((false, 100, false)); 3]);
    let all = [
        ("VCUDA_CORE_LIMIT", "30"),
        ("VCUDA_ELASTIC", " true "),
        ("VCUDA_WEIGHT", "1=60"),
        ("VCUDA_PRIORITY", "2=high"),
    ];
    assert_eq!(sharing(&all), [Some((true, 30, false)), Some((true, 60, false)), Some((true, 30, true))]);
    for (name, value) in [("VCUDA_ELASTIC", "false"), ("VCUDA_WEIGHT", "100"), ("VCUDA_PRIORITY", "normal")] {
        let limits = World::variables(&[(name, value)]).load().unwrap();
        assert!(!limits.is_unlimited(), "{name}");
        assert_eq!(limits.source(), &Source::Environment);
        assert_eq!(limits.resolve(&gpus()).unwrap()[0].share, None);
    }
}

#[test]
fn sharing_in_variables_that_is_a_mistake() {
    let table = [
        ("VCUDA_ELASTIC", "", "\"\" is neither true nor false; write true or false"),
        ("VCUDA_ELASTIC", "yes", "\"yes\" is neither true nor false; write true or false"),
        (
            "VCUDA_ELASTIC",
            "true,1=false",
            "\"true\" does not say which GPU it is for; write true or false for every GPU, or",
        ),
        ("VCUDA_ELASTIC", "0=true,0=true", "GPU 0 is given twice; give each GPU one limit"),
        ("VCUDA_WEIGHT", "", "\"\" is no weight; write a whole number from 1 to 10000, such as 30"),
        ("VCUDA_WEIGHT", "0", "\"0\" is no weight; write"),
        ("VCUDA_WEIGHT", "10001", "\"10001\" is no weight; write"),
        ("VCUDA_WEIGHT", "30%", "\"30%\" is no weight; write"),
        (
            "VCUDA_WEIGHT",
            "30,1=60",
            "\"30\" does not say which GPU it is for; write one weight for every GPU (30), or",
        ),
        ("VCUDA_PRIORITY", "low", "\"low\" is no priority; write normal or high"),
        ("VCUDA_PRIORITY", "0", "\"0\" is no priority; write normal or high"),
        (
            "VCUDA_PRIORITY",
            "high,",
            "\"high\" does not say which GPU it is for; write normal or high for every GPU, or",
        ),
        ("VCUDA_PRIORITY", "x=high", "\"x\" names no GPU"),
    ];
    for (name, text, problem) in table {
        let mistake = World::variables(&[(name, text)]).mistake();
        assert!(mistake.starts_with(&format!("{name}: {problem}")), "{text}: {mistake}");
    }
    let missing = World::variables(&[("VCUDA_WEIGHT", "3=30")]).load().unwrap();
    let mistake = missing.resolve(&gpus()).unwrap_err().to_string();
    assert!(mistake.starts_with("VCUDA_WEIGHT: there is no GPU 3; the GPUs here are 0 ("), "{mistake}");
}

#[test]
fn sharing_in_a_file_holds_key_by_key() {
    let text = r#"{"version":1,"default":{"cores":30,"elastic":true,"priority":"high"},
        "devices":{"1":{"weight":60,"priority":"normal"},"GPU-cd":{"cores":50,"elastic":false}}}"#;
    let world = World::default().file(SYSTEM_FILE, text);
    assert_eq!(world.sharing(), [Some((true, 30, true)), Some((true, 60, false)), Some((false, 50, true))]);
    assert_eq!(world.shares(), [Some(300_000), Some(300_000), Some(500_000)]);
    let alone = World::default().file(SYSTEM_FILE, r#"{"version":1,"devices":{"0":{"weight":5}}}"#);
    assert_eq!(alone.sharing(), [Some((false, 5, false)), None, None]);
    assert_eq!(alone.shares(), [None; 3]);
    let ignoring =
        World::variables(&[("VCUDA_ELASTIC", "true"), ("VCUDA_WEIGHT", "x"), ("VCUDA_PRIORITY", "high")])
            .file(SYSTEM_FILE, r#"{"version":1}"#);
    assert_eq!(ignoring.sharing(), [None; 3]);
    assert_eq!(
        ignoring.load().unwrap().warnings,
        ["VCUDA_ELASTIC", "VCUDA_WEIGHT", "VCUDA_PRIORITY"]
            .map(|name| format!("{name} is ignored: {SYSTEM_FILE} sets the limits here"))
    );
}

#[test]
fn sharing_in_a_file_that_is_a_mistake() {
    let table = [
        (r#""elastic":"true""#, "default.elastic: is a string; it must be true or false, without quotes"),
        (r#""elastic":1"#, "default.elastic: is a number; it must be true or false, without quotes"),
        (
            r#""weight":"30""#,
            "default.weight: is a string; it must be a whole number from 1 to 10000, such as 30",
        ),
        (r#""weight":30.0"#, "default.weight: \"30.0\" is no weight; write a whole number from 1 to 10000"),
        (r#""weight":0"#, "default.weight: \"0\" is no weight"),
        (r#""weight":-1"#, "default.weight: \"-1\" is no weight"),
        (r#""weight":10001"#, "default.weight: \"10001\" is no weight"),
        (r#""weight":null"#, "default.weight: is null"),
        (r#""priority":"urgent""#, "default.priority: \"urgent\" is no priority; write normal or high"),
        (r#""priority":true"#, "default.priority: is true or false; it must be \"normal\" or \"high\""),
        (
            r#""weights":30"#,
            "default.weights: is an unknown key; the keys here are memory, cores, elastic, weight, priority",
        ),
    ];
    for (member, expected) in table {
        let mistake = file_mistake(&format!("{{\"version\":1,\"default\":{{{member}}}}}"));
        assert_eq!(mistake.split_once(": ").unwrap().0, "/etc/vcuda/limits.json:1:25", "{mistake}");
        assert!(mistake.contains(expected), "{member}\n  {mistake}");
    }
}

#[test]
fn hami_says_high_by_zero() {
    let high = |pairs: &[(&str, &str)]| World::variables(pairs).sharing()[0].map(|(_, _, is_high)| is_high);
    assert_eq!(high(&[("CUDA_TASK_PRIORITY", "0")]), Some(true));
    assert_eq!(high(&[("CUDA_TASK_PRIORITY", " 0 ")]), Some(true));
    for other in ["1", "", "00", "high"] {
        assert_eq!(high(&[("CUDA_TASK_PRIORITY", other)]), None, "{other}");
    }
    assert_eq!(high(&[("CUDA_TASK_PRIORITY", "1"), ("CUDA_DEVICE_SM_LIMIT", "30")]), Some(false));
    assert_eq!(high(&[("CUDA_TASK_PRIORITY", "0"), ("CUDA_DEVICE_SM_LIMIT", "30")]), Some(true));
    assert_eq!(high(&[("CUDA_TASK_PRIORITY", "0"), ("VCUDA_PRIORITY", "normal")]), Some(false));
    let limits = World::variables(&[("CUDA_TASK_PRIORITY", "0")]).load().unwrap();
    assert_eq!(limits.priorities()[0].place, "CUDA_TASK_PRIORITY");
}
