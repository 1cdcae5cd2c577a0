//! Limits of GPU time, alone and beside those of memory.

use super::*;

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
