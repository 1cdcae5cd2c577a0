//! Limits files: what they hold, what they outrank, and where a mistake in them is.

use super::*;

#[test]
fn the_system_file_outranks_every_variable() {
    let world = World::variables(&[
        ("VCUDA_MEMORY_LIMIT", "not even an amount"),
        ("VCUDA_LIMITS_FILE", "/other.json"),
        ("VCUDA_CONTROL_FILE", "/mine"),
        ("VCUDA_CORE_LIMIT", "50"),
        ("CUDA_DEVICE_MEMORY_LIMIT", "1g"),
    ])
    .file("/other.json", "{\"version\":1}")
    .file(SYSTEM_FILE, r#"{"version":1,"default":{"memory":"4GiB"}}"#);
    let limits = world.load().unwrap();
    assert_eq!(world.bytes(), [Some(4 * GIB); 3]);
    assert_eq!(limits.source(), &Source::SystemFile);
    assert_eq!(limits.control_file, None, "a process may not choose a ledger of its own");
    assert_eq!(limits.warnings.len(), 4);
    assert!(limits.warnings[0].contains("is ignored: /etc/vcuda/limits.json"), "{:?}", limits.warnings);
}

#[test]
fn a_named_file_outranks_the_limit_variables_only() {
    let world = World::variables(&[
        ("VCUDA_LIMITS_FILE", "/my/limits.json"),
        ("VCUDA_MEMORY_LIMIT", "1GiB"),
        ("VCUDA_CORE_LIMIT", "30"),
        ("CUDA_DEVICE_SM_LIMIT", "30"),
        ("VCUDA_CONTROL_FILE", "/tmp/job"),
    ])
    .file("/my/limits.json", r#"{"version":1,"default":{"memory":"50%"}}"#);
    let limits = world.load().unwrap();
    assert_eq!(world.bytes(), [Some(8 * GIB), Some(40 * GIB), Some(72 * GIB)]);
    assert_eq!(world.shares(), [None; 3]);
    assert_eq!(limits.control_file.as_deref(), Some(Path::new("/tmp/job")));
    assert_eq!(
        limits.warnings,
        [
            "VCUDA_MEMORY_LIMIT is ignored: /my/limits.json sets the limits here",
            "VCUDA_CORE_LIMIT is ignored: /my/limits.json sets the limits here"
        ]
    );
}

#[test]
fn files_that_cannot_be_read() {
    let missing = World::variables(&[("VCUDA_LIMITS_FILE", "/none.json")]).mistake();
    assert!(missing.starts_with("VCUDA_LIMITS_FILE: there is no file \"/none.json\""), "{missing}");
    let denied =
        Limits::load(&|_| None, &|_| Err(io::ErrorKind::PermissionDenied.into()), &|_| Ok(None)).unwrap_err();
    assert!(denied.to_string().starts_with("/etc/vcuda/limits.json: can't be read: "), "{denied}");
    assert!(denied.to_string().contains("make it readable"), "{denied}");
}

#[test]
fn a_whole_file() {
    let text = format!(
        r#"{{"version":1,"control_file":"/run/v/job","default":{{"memory":"4GiB"}},
            "devices":{{"{}":{{"memory":"8GiB","cores":12.5}},
                        "GPU-cd":{{"memory":"100%","cores":"30%"}}}}}}"#,
        uuid(1)
    );
    let world = World::default().file(SYSTEM_FILE, &text);
    assert_eq!(world.bytes(), [Some(4 * GIB), Some(8 * GIB), Some(144 * GIB)]);
    assert_eq!(world.shares(), [None, Some(125_000), Some(300_000)]);
    assert_eq!(world.load().unwrap().control_file.as_deref(), Some(Path::new("/run/v/job")));
}

#[test]
fn files_that_are_mistakes_say_where() {
    let table = [
        ("", "/etc/vcuda/limits.json:1:0: not JSON: EOF while parsing a value"),
        ("{\n  \"version\": 1,\n}", "/etc/vcuda/limits.json:3:1: not JSON: trailing comma"),
        ("{\"version\":1} x", "limits.json:1:15: not JSON: trailing characters"),
        ("[]", "limits.json: is an array; it must be an object"),
        ("{}", "limits.json: has no \"version\""),
        ("{\"version\":2}", "limits.json:1:2: version: \"2\" is not supported"),
        ("{\"version\":\"1\"}", "is not supported"),
        (
            "{\"version\":1,\n \"memory\":\"4GiB\"}",
            "limits.json:2:2: memory: is an unknown key; the keys here are version",
        ),
        (
            "{\"version\":1,\"default\":\"4GiB\"}",
            "limits.json:1:14: default: is a string; it must be an object",
        ),
        (
            "{\"version\":1,\"default\":{}}",
            "limits.json:1:14: default: sets no limit; it must have \"memory\": \"4GiB\", \"cores\": 30, or another limit",
        ),
        (
            "{\"version\":1,\"default\":{\"memory\":4}}",
            "limits.json:1:25: default.memory: is a number; it must be an amount in quotes",
        ),
        ("{\"version\":1,\"default\":{\"memory\":null}}", "default.memory: is null"),
        (
            "{\"version\":1,\"default\":{\"memory\":\"4X\"}}",
            "1:25: default.memory: \"4X\" has an unknown unit",
        ),
        ("{\"version\":1,\"default\":{\"memory\":\"0\"}}", "no memory at all"),
        (
            "{\"version\":1,\"default\":{\"memory\":\"1G\",\"core\":50}}",
            "default.core: is an unknown key; the keys here are memory, cores, elastic, weight, priority",
        ),
        ("{\"version\":1,\"default\":{\"cores\":0}}", "1:25: default.cores: \"0\" is no GPU time at all"),
        ("{\"version\":1,\"default\":{\"cores\":-5}}", "default.cores: \"-5\" is negative"),
        ("{\"version\":1,\"default\":{\"cores\":100.5}}", "\"100.5\" is more than the whole GPU"),
        ("{\"version\":1,\"default\":{\"cores\":12.34567}}", "has more than four decimals"),
        (
            "{\"version\":1,\"default\":{\n\"cores\":\"lots\"}}",
            "2:1: default.cores: \"lots\" is not a percent",
        ),
        ("{\"version\":1,\"default\":{\"cores\":\"\"}}", "default.cores: \"\" is empty"),
        (
            "{\"version\":1,\"default\":{\"cores\":true}}",
            "default.cores: is true or false; it must be a percentage, such as 30 or \"12.5%\"",
        ),
        ("{\"version\":1,\"default\":{\"cores\":null}}", "default.cores: is null"),
        ("{\"version\":1,\"default\":{\"cores\":[30]}}", "default.cores: is an array"),
        ("{\"version\":1,\"devices\":[]}", "devices: is an array"),
        (
            "{\"version\":1,\"devices\":{\"gpu\":{\"memory\":\"1G\"}}}",
            "1:25: devices.gpu: \"gpu\" names no GPU",
        ),
        ("{\"version\":1,\"devices\":{\"GPU-aa\":{}}}", "1:25: devices.GPU-aa: sets no limit"),
        (
            "{\"version\":1,\"devices\":{\"GPU-aa\":{\"memory\":\"1G\"},\"gpu-AA\":{\"memory\":\"1G\"}}}",
            "GPU-aa is given twice",
        ),
        (
            "{\"version\":1,\"devices\":{\"GPU-aa\":{\"cores\":1},\"gpu-AA\":{\"cores\":1}}}",
            "GPU-aa is given twice",
        ),
        (
            "{\"version\":1,\"default\":{\"memory\":\"1G\"},\n\"default\":{\"memory\":\"2G\"}}",
            "limits.json:2:1: default: the key is given twice",
        ),
        (
            "{\"version\":1,\"default\":{\"memory\":\"1G\",\"mem\\u006fry\":\"2G\"}}",
            "default.memory: the key is given twice",
        ),
        ("{\"version\":1,\"control_file\":\"job\"}", "control_file: \"job\" is not an absolute path"),
        ("{\"version\":1,\"control_file\":\"/a\\u0000b\"}", "is not an absolute path"),
        ("{\"version\":1,\"control_file\":7}", "control_file: is a number"),
    ];
    for (text, expected) in table {
        let mistake = file_mistake(text);
        assert!(mistake.contains(expected), "{text}\n  {mistake}");
        assert!(!mistake.contains('\n'), "one line: {mistake}");
    }
    let large = format!("{{\"version\":1}}{}", " ".repeat(MAX_FILE_BYTES));
    assert!(file_mistake(&large).contains("is larger than 1 MiB"));
    let not_text =
        World { files: [(SYSTEM_FILE.into(), b"{\"version\xff\":1}".to_vec())].into(), ..World::default() };
    assert!(not_text.mistake().contains("not JSON"));
}

#[test]
fn reading_real_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.json");
    assert_eq!(read_file(&path).unwrap(), None);
    std::fs::write(&path, "{}").unwrap();
    assert_eq!(read_file(&path).unwrap().unwrap(), b"{}");
    std::fs::write(&path, vec![b' '; MAX_FILE_BYTES * 2]).unwrap();
    assert_eq!(read_file(&path).unwrap().unwrap().len(), MAX_FILE_BYTES + 1);
    assert!(read_file(directory.path()).unwrap_err().to_string().contains("not a regular file"));
}
