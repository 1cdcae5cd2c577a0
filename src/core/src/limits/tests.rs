mod properties;
mod shares;
mod sharing;

use super::*;
use crate::device::Uuid;
use std::collections::HashMap;

const GIB: u64 = 1 << 30;

/// A machine's variables and files, for [`Limits::load`].
#[derive(Default)]
struct World {
    variables: HashMap<String, String>,
    files: HashMap<PathBuf, Vec<u8>>,
}

impl World {
    fn variables(pairs: &[(&str, &str)]) -> World {
        let variables = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        World { variables, files: HashMap::new() }
    }

    fn file(mut self, path: &str, text: &str) -> World {
        self.files.insert(path.into(), text.as_bytes().to_vec());
        self
    }

    fn load(&self) -> Result<Limits, LimitsError> {
        let list = |directory: &Path| {
            let below = self.files.keys().filter(|path| path.parent() == Some(directory));
            let names: Vec<_> = below.filter_map(|path| Some(path.file_name()?.to_owned())).collect();
            Ok((!names.is_empty()).then_some(names))
        };
        let read = |path: &Path| Ok(self.files.get(path).cloned());
        Limits::load(&|name| self.variables.get(name).cloned(), &read, &list)
    }

    fn bytes(&self) -> Vec<Option<u64>> {
        bytes(&self.load().unwrap(), &gpus())
    }

    /// Parts per million of each GPU's time.
    fn shares(&self) -> Vec<Option<u32>> {
        let resolved = self.load().unwrap().resolve(&gpus()).unwrap();
        resolved.iter().map(|limits| limits.share.map(Share::ppm)).collect()
    }

    /// Of each GPU: whether it is elastic, its weight, whether its priority is high.
    fn sharing(&self) -> Vec<Option<(bool, u32, bool)>> {
        let resolved = self.load().unwrap().resolve(&gpus()).unwrap();
        let parts =
            |sharing: Sharing| (sharing.elastic, sharing.weight.get(), sharing.priority == Priority::High);
        resolved.iter().map(|limits| limits.sharing.map(parts)).collect()
    }

    fn mistake(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

fn gpus() -> Vec<Gpu> {
    let gpu = |index: u32, first: u8, gib: u64| {
        let mut uuid = [index as u8; 16];
        uuid[0] = first;
        Gpu { index, uuid: Uuid::gpu(uuid), physical_bytes: gib * GIB }
    };
    vec![gpu(0, 0xaa, 16), gpu(1, 0xab, 80), gpu(2, 0xcd, 144)]
}

fn uuid(index: usize) -> String {
    gpus()[index].uuid.to_string()
}

fn memory(text: &str) -> Limits {
    let overrides = Overrides { memory: Some(("--memory", text)), ..Overrides::default() };
    Limits::from_overrides(&overrides, &|_| None).unwrap()
}

fn bytes(limits: &Limits, gpus: &[Gpu]) -> Vec<Option<u64>> {
    limits.resolve(gpus).unwrap().iter().map(|limits| limits.memory_bytes).collect()
}

fn file_mistake(text: &str) -> String {
    World::default().file(SYSTEM_FILE, text).mistake()
}

#[test]
fn amounts_in_every_unit() {
    let table = [
        ("1", 1),
        ("1B", 1),
        ("4096", 4096),
        ("1K", 1 << 10),
        ("1k", 1 << 10),
        ("1KiB", 1 << 10),
        ("1KB", 1000),
        ("1M", 1 << 20),
        ("1mib", 1 << 20),
        ("1MB", 1_000_000),
        ("4G", 4 * GIB),
        ("4g", 4 * GIB),
        ("4GiB", 4 * GIB),
        (" 4 GiB ", 4 * GIB),
        ("4GB", 4_000_000_000),
        ("1T", 1 << 40),
        ("1TiB", 1 << 40),
        ("1TB", 1_000_000_000_000),
        ("1.5GiB", 3 * GIB / 2),
        (".5G", GIB / 2),
        ("2.G", 2 * GIB),
        ("0.1K", 102),
        ("1.50000000000000000000000000G", 3 * GIB / 2),
        ("0000000000000000000000000000000000000000000004G", 4 * GIB),
        ("18446744073709551615", u64::MAX),
    ];
    for (text, bytes) in table {
        assert_eq!(Amount::parse("x", text), Ok(Amount::Bytes(bytes)), "{text}");
    }
}

#[test]
fn shares_of_the_gpu() {
    assert_eq!(Amount::parse("x", "50%").unwrap().of(80 * GIB), 40 * GIB);
    assert_eq!(Amount::parse("x", "100 %").unwrap().of(80 * GIB), 80 * GIB);
    assert_eq!(Amount::parse("x", "33.333333%").unwrap().of(300_000_000), 99_999_999);
    assert_eq!(Amount::parse("x", "0.000001%").unwrap().of(10), 1);
    assert_eq!(Amount::parse("x", "100%").unwrap().of(u64::MAX), u64::MAX);
}

#[test]
fn amounts_that_are_mistakes() {
    let table = [
        ("", "the amount is empty"),
        ("  ", "the amount is empty"),
        ("0", "no memory at all"),
        ("0GiB", "no memory at all"),
        ("0.0%", "no memory at all"),
        ("-4GiB", "is negative"),
        ("+4GiB", "is not an amount"),
        ("GiB", "is not an amount"),
        (".", "is not an amount"),
        (".G", "is not an amount"),
        ("1.2.3G", "is not an amount"),
        ("1.0000000000000000001G", "is not an amount"),
        ("unlimited", "is not an amount"),
        ("4 gigs", "unknown unit \"gigs\""),
        ("4iB", "unknown unit \"ib\""),
        ("1e9", "unknown unit \"e9\""),
        ("4P", "unknown unit \"p\""),
        ("4GiB 2", "unknown unit \"gib 2\""),
        ("４GiB", "is not an amount"),
        ("0.5B", "is less than one byte"),
        ("0.0000001%", "is too small a share"),
        ("101%", "is more than the whole GPU"),
        ("99999999999999999999%", "is more than the whole GPU"),
        ("18446744073709551616", "is more than any GPU has"),
        ("16777216T", "is more than any GPU has"),
        ("999999999999999999999999999999999999999999", "is more than any GPU has"),
    ];
    for (text, problem) in table {
        let mistake = Amount::parse("VCUDA_MEMORY_LIMIT", text).unwrap_err().to_string();
        assert!(mistake.starts_with("VCUDA_MEMORY_LIMIT: "), "{mistake}");
        assert!(mistake.contains(problem), "{text}: {mistake}");
        assert!(mistake.contains("; "), "says what would be right: {mistake}");
    }
}

#[test]
fn amounts_display_as_they_are_read() {
    for text in ["4GiB", "1023MiB", "1TiB", "1025B", "50%", "33.3%", "0.000001%"] {
        assert_eq!(Amount::parse("x", text).unwrap().to_string(), text);
    }
}

#[test]
fn nothing_configured_is_unlimited() {
    let limits = World::default().load().unwrap();
    assert!(limits.is_unlimited());
    assert_eq!(limits.source(), &Source::Nothing);
    assert_eq!(limits.log_level, LogLevel::Warn);
    assert_eq!(limits.resolve(&gpus()), Ok(vec![DeviceLimits::default(); 3]));
}

#[test]
fn one_amount_for_every_gpu_and_never_more_than_it_has() {
    let world = World::variables(&[("VCUDA_MEMORY_LIMIT", "80GiB")]);
    assert_eq!(world.bytes(), [Some(16 * GIB), Some(80 * GIB), Some(80 * GIB)]);
    assert!(!world.load().unwrap().is_unlimited());
}

#[test]
fn per_gpu_by_index_and_uuid() {
    let list = format!("1=4GiB, {}=25% ,gpu-CD=1G", uuid(0));
    let world = World::variables(&[("VCUDA_MEMORY_LIMIT", &list)]);
    assert_eq!(world.bytes(), [Some(4 * GIB), Some(4 * GIB), Some(GIB)]);
    let world = World::variables(&[("VCUDA_MEMORY_LIMIT", "2=4GiB")]);
    assert_eq!(world.bytes(), [None, None, Some(4 * GIB)]);
}

#[test]
fn indices_are_those_of_the_gpu_not_of_the_list() {
    let mut reversed = gpus();
    reversed.reverse();
    assert_eq!(bytes(&memory("0=1GiB"), &reversed), [None, None, Some(GIB)]);
}

#[test]
fn mig_instances_by_uuid() {
    let mig = Gpu { index: 0, uuid: Uuid::mig([7; 16]), physical_bytes: 10 * GIB };
    assert_eq!(bytes(&memory("MIG-0707=4GiB"), &[mig]), [Some(4 * GIB)]);
}

#[test]
fn lists_that_are_mistakes() {
    let table = [
        ("4GiB,1=2GiB", "\"4GiB\" does not say which GPU"),
        ("0=4GiB,", "\"\" does not say which GPU"),
        (",", "\"\" does not say which GPU"),
        ("=4GiB", "\"\" names no GPU"),
        ("0=", "the amount is empty"),
        ("a=4GiB", "\"a\" names no GPU"),
        ("GPU-=4GiB", "\"GPU-\" names no GPU"),
        ("GPU-xyz=4GiB", "\"GPU-xyz\" names no GPU"),
        ("MIG-GPU-0f1e/1/0=4GiB", "names no GPU"),
        ("-1=4GiB", "\"-1\" names no GPU"),
        ("99999999999=4GiB", "names no GPU"),
        ("0=4GiB,00=5GiB", "GPU 0 is given twice"),
        ("GPU-AA=4GiB,gpu-aa=5GiB", "GPU-aa is given twice"),
        ("0=4GiB=5", "unknown unit \"gib=5\""),
    ];
    for (text, problem) in table {
        let mistake = World::variables(&[("VCUDA_MEMORY_LIMIT", text)]).mistake();
        assert!(mistake.contains(problem), "{text}: {mistake}");
    }
}

#[test]
fn gpus_that_are_not_there() {
    let mistake = |text: &str| memory(text).resolve(&gpus()).unwrap_err().to_string();
    let here = format!("the GPUs here are 0 ({}), 1 ({}), 2 ({})", uuid(0), uuid(1), uuid(2));
    assert_eq!(mistake("3=1GiB"), format!("--memory: there is no GPU 3; {here}"));
    assert_eq!(mistake("GPU-ff=1GiB"), format!("--memory: there is no GPU-ff; {here}"));
    assert_eq!(
        mistake("GPU-a=1GiB"),
        format!("--memory: GPU-a is the start of more than one UUID; write more of it; {here}")
    );
    assert!(mistake("0=1GiB,GPU-aa=2GiB").contains("GPU 0 and GPU-aa are the same GPU"));
    let none = memory("0=1GiB").resolve(&[]).unwrap_err();
    assert!(none.to_string().contains("there are no GPUs here"), "{none}");
}

#[test]
fn a_forgotten_unit_is_pointed_out() {
    let limits = World::variables(&[("VCUDA_MEMORY_LIMIT", "4")]).load().unwrap();
    assert_eq!(
        limits.warnings,
        ["VCUDA_MEMORY_LIMIT: 4 bytes can't hold a CUDA context; did you mean 4GiB or 4MiB?"]
    );
}

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
fn hami_variables_work_as_they_do_there() {
    let world = World::variables(&[
        ("CUDA_DEVICE_MEMORY_LIMIT", "4096m"),
        ("CUDA_DEVICE_MEMORY_LIMIT_1", "2G"),
        ("CUDA_DEVICE_MEMORY_LIMIT_2", "0m"),
        ("CUDA_DEVICE_MEMORY_SHARED_CACHE", "/usr/local/vgpu/x.cache"),
        ("CUDA_DEVICE_SM_LIMIT", "30"),
        ("CUDA_DEVICE_SM_LIMIT_1", "100"),
        ("CUDA_DEVICE_SM_LIMIT_2", "0"),
        ("GPU_CORE_UTILIZATION_POLICY", "force"),
    ]);
    let limits = world.load().unwrap();
    assert_eq!(world.bytes(), [Some(4 * GIB), Some(2 * GIB), Some(4 * GIB)]);
    assert_eq!(world.shares(), [Some(300_000), None, Some(300_000)]);
    assert_eq!(limits.source(), &Source::Environment);
    assert_eq!(limits.control_file.as_deref(), Some(Path::new("/usr/local/vgpu/x.cache.vcuda")));
    assert!(limits.warnings.is_empty(), "{:?}", limits.warnings);
}

#[test]
fn hami_numbers_gpus_as_it_lists_them() {
    let [first, second, third] = [0, 1, 2].map(uuid);
    let world = |visible: &str, limits: &[&str]| {
        let names: Vec<_> =
            (0..limits.len()).map(|index| format!("CUDA_DEVICE_MEMORY_LIMIT_{index}")).collect();
        let mut variables: Vec<_> = names.iter().map(String::as_str).zip(limits.iter().copied()).collect();
        variables.push(("NVIDIA_VISIBLE_DEVICES", visible));
        World::variables(&variables).bytes()
    };
    let [one, two, three] = [1, 2, 3].map(|count| Some(count * GIB));
    assert_eq!(world(&format!("{third},{first}"), &["1g", "2g"]), [two, None, one]);
    assert_eq!(world(&second, &["3g"]), [None, three, None]);
    // Numbers of nvidia-smi's, where the list is none of HAMi's making.
    assert_eq!(world("all", &["1g", "2g"]), [one, two, None]);
    assert_eq!(world("2,0", &["1g", "2g"]), [one, two, None]);
    assert_eq!(world(&format!("{third},{first},{second}"), &["1g", "2g"]), [one, two, None]);
    assert_eq!(world(&third, &["1g", "2g"]), [one, two, None]);
}

#[test]
fn what_hami_would_do_and_we_do_not_is_told() {
    let told = |variables: &[(&str, &str)]| World::variables(variables).load().unwrap().warnings;
    let limit = ("CUDA_DEVICE_MEMORY_LIMIT_0", "4096m");
    for name in ["CUDA_DISABLE_CONTROL", "CUDA_OVERSUBSCRIBE"] {
        for value in ["true", "1", " True "] {
            let warnings = told(&[limit, (name, value)]);
            assert!(warnings[0].starts_with(&format!("{name}={}: ", value.trim())), "{warnings:?}");
            assert_eq!(warnings.len(), 1);
        }
        assert!(told(&[limit, (name, "false")]).is_empty());
        assert!(told(&[(name, "true")]).is_empty(), "nothing is limited");
    }
    let bytes = World::variables(&[limit, ("CUDA_DISABLE_CONTROL", "true")]).bytes();
    assert_eq!(bytes[0], Some(4 * GIB), "a program can't lift its own limit");
}

#[test]
fn hami_zero_is_no_limit_and_garbage_is_a_mistake() {
    assert!(World::variables(&[("CUDA_DEVICE_MEMORY_LIMIT", "0")]).load().unwrap().is_unlimited());
    assert!(World::variables(&[("CUDA_DEVICE_MEMORY_LIMIT_0", "0m")]).load().unwrap().is_unlimited());
    let mistake = World::variables(&[("CUDA_DEVICE_MEMORY_LIMIT_3", "lots")]).mistake();
    assert!(mistake.starts_with("CUDA_DEVICE_MEMORY_LIMIT_3: \"lots\""), "{mistake}");
    let compute = |text| World::variables(&[("CUDA_DEVICE_SM_LIMIT", text)]);
    for text in ["0", " 0 ", ""] {
        let limits = compute(text).load().unwrap();
        assert!(limits.is_unlimited() && limits.warnings.is_empty(), "{limits:?}");
        assert_eq!(limits.source(), &Source::Nothing);
        assert!(limits.notes[0].contains("no compute limit there, as HAMi reads it"), "{limits:?}");
    }
    for (text, problem) in [
        ("lots", "\"lots\" is not a percentage"),
        ("-30", "is negative"),
        ("101", "is more than the whole GPU"),
        (
            "12.5",
            "is no whole percentage, as HAMi's variables are; write 1 to 100, such as 30; VCUDA_CORE_LIMIT",
        ),
    ] {
        let mistake = compute(text).mistake();
        assert!(mistake.starts_with("CUDA_DEVICE_SM_LIMIT: ") && mistake.contains(problem), "{mistake}");
    }
}

#[test]
fn hamis_policy_can_switch_its_own_compute_limit_off() {
    let world =
        |policy| World::variables(&[("CUDA_DEVICE_SM_LIMIT", "30"), ("GPU_CORE_UTILIZATION_POLICY", policy)]);
    for policy in ["", "default", "force", "other"] {
        assert_eq!(world(policy).shares(), [Some(300_000); 3], "{policy}");
        assert!(world(policy).load().unwrap().warnings.is_empty());
    }
    for policy in ["disable", "DISABLE"] {
        let limits = world(policy).load().unwrap();
        assert!(limits.is_unlimited());
        assert!(limits.warnings[0].starts_with("GPU_CORE_UTILIZATION_POLICY=disable: "), "{limits:?}");
    }
    let own = World::variables(&[("VCUDA_CORE_LIMIT", "30"), ("GPU_CORE_UTILIZATION_POLICY", "disable")]);
    assert_eq!(own.shares(), [Some(300_000); 3]);
    assert!(own.load().unwrap().warnings.is_empty());
}

#[test]
fn each_kind_of_limit_works_alone_and_beside_the_other() {
    let cores = World::variables(&[("VCUDA_CORE_LIMIT", "12.5")]);
    assert_eq!(cores.shares(), [Some(125_000); 3]);
    assert_eq!(cores.bytes(), [None; 3]);
    assert!(!cores.load().unwrap().is_unlimited());
    let memory = World::variables(&[("VCUDA_MEMORY_LIMIT", "4GiB")]);
    assert_eq!(memory.shares(), [None; 3]);
    let list = format!("0=30 %, {}=50,GPU-CD=100", uuid(1));
    let both = World::variables(&[("VCUDA_CORE_LIMIT", &list), ("VCUDA_MEMORY_LIMIT", "2=4GiB")]);
    assert_eq!(both.shares(), [Some(300_000), Some(500_000), None]);
    assert_eq!(both.bytes(), [None, None, Some(4 * GIB)]);
}

#[test]
fn all_of_the_time_is_no_limit() {
    let whole = World::variables(&[("VCUDA_CORE_LIMIT", "100")]);
    assert!(whole.load().unwrap().is_unlimited());
    assert_eq!(whole.load().unwrap().source(), &Source::Environment, "it was set all the same");
    assert_eq!(whole.shares(), [None; 3]);
    let beside = World::variables(&[("VCUDA_CORE_LIMIT", "100"), ("VCUDA_MEMORY_LIMIT", "4GiB")]);
    assert!(!beside.load().unwrap().is_unlimited());
    let file = World::default()
        .file(SYSTEM_FILE, r#"{"version":1,"default":{"cores":30},"devices":{"GPU-cd":{"cores":100}}}"#);
    assert!(!file.load().unwrap().is_unlimited());
    assert_eq!(file.shares(), [Some(300_000), Some(300_000), None]);
}

#[test]
fn shares_in_lists_that_are_mistakes() {
    let table = [
        ("", "VCUDA_CORE_LIMIT: \"\" is empty; write 1 to 100, such as 30; decimals work: 12.5"),
        ("0", "\"0\" is no GPU time at all"),
        ("-30", "\"-30\" is negative"),
        ("101%", "\"101%\" is more than the whole GPU"),
        ("lots", "\"lots\" is not a percentage"),
        ("1e1", "\"1e1\" is not a percentage"),
        ("0.00001", "has more than four decimals"),
        ("30,1=50", "\"30\" does not say which GPU it is for; write one percentage for every GPU (30), or"),
        ("0=0", "\"0\" is no GPU time at all"),
        ("0=", "\"\" is empty"),
        ("x=30", "\"x\" names no GPU"),
        ("0=30,0=50", "GPU 0 is given twice"),
    ];
    for (text, problem) in table {
        let mistake = World::variables(&[("VCUDA_CORE_LIMIT", text)]).mistake();
        assert!(mistake.starts_with("VCUDA_CORE_LIMIT: ") && mistake.contains(problem), "{text}: {mistake}");
    }
    let missing = World::variables(&[("VCUDA_CORE_LIMIT", "3=30")]).load().unwrap();
    let mistake = missing.resolve(&gpus()).unwrap_err().to_string();
    assert!(mistake.starts_with("VCUDA_CORE_LIMIT: there is no GPU 3; the GPUs here are 0 ("), "{mistake}");
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
fn own_names_outrank_hami_names() {
    let world = World::variables(&[
        ("VCUDA_MEMORY_LIMIT", "1GiB"),
        ("VCUDA_CONTROL_FILE", "/mine"),
        ("CUDA_DEVICE_MEMORY_LIMIT", "8g"),
        ("CUDA_DEVICE_MEMORY_LIMIT_1", "8g"),
        ("CUDA_DEVICE_MEMORY_SHARED_CACHE", "/theirs"),
        ("CUDA_DEVICE_SM_LIMIT", "50"),
    ]);
    assert_eq!(world.bytes(), [Some(GIB); 3]);
    assert_eq!(world.shares(), [Some(500_000); 3], "the memory limit says nothing of compute");
    assert_eq!(world.load().unwrap().control_file.as_deref(), Some(Path::new("/mine")));
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

#[test]
fn hostile_text_stays_on_one_readable_line() {
    let long = "x\n\u{1b}[31m".repeat(100);
    let mistake = World::variables(&[("VCUDA_MEMORY_LIMIT", &long)]).mistake();
    assert!(mistake.len() < 500 && !mistake.contains('\n') && !mistake.contains('\u{1b}'), "{mistake}");
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
