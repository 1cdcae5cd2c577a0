use super::*;

const GPU: Uuid = Uuid::gpu([1; 16]);
const PART: Uuid = Uuid::mig([2; 16]);

fn era(boot: &str, driver: u64) -> Era {
    Era { boot: Some(boot.to_owned()), driver: Some(driver) }
}

fn first() -> Era {
    era("first", 1)
}

/// A ledger as an agent opens it in a given start of the machine.
fn ledger(directory: &Path, era: fn() -> Era) -> Ledger {
    Ledger { era, ..Ledger::open(directory) }
}

fn faults(ledger: &mut Ledger) -> Faults {
    let (faults, mended) = ledger.read().unwrap();
    assert_eq!(mended, []);
    faults
}

#[test]
fn what_one_agent_found_the_next_one_knows() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("faults");
    let mut one = ledger(&directory, first);
    assert_eq!(faults(&mut one), Faults::default(), "no directory");
    for (xid, is_new) in [(48, true), (154, true), (48, false)] {
        assert_eq!(one.add(GPU, GPU, xid).unwrap(), is_new, "{xid}");
    }
    one.add(PART, Uuid::gpu([9; 16]), 94).unwrap();
    let known = faults(&mut one);
    assert_eq!(known.of(GPU, None).unwrap().xids, [48, 154]);
    assert_eq!(known.of(PART, None).unwrap().gpu, Uuid::gpu([9; 16]));
    assert_eq!(faults(&mut ledger(&directory, first)), known);
    let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing is left beside them: {names:?}");
    let text = fs::read_to_string(directory.join(GPU.to_string())).unwrap();
    assert!(text.contains("--declare-well GPU-01010101"), "{text}");
}

#[test]
fn a_start_of_the_machine_or_of_the_driver_mends() {
    let of_machine: fn() -> Era = || era("second", 1);
    let of_driver: fn() -> Era = || era("first", 2);
    for (start, why) in
        [(of_machine, "the machine was started anew"), (of_driver, "the driver was loaded anew")]
    {
        let root = tempfile::tempdir().unwrap();
        ledger(root.path(), first).add(GPU, GPU, 79).unwrap();
        let mut later = ledger(root.path(), start);
        let (left, mended) = later.read().unwrap();
        assert_eq!(left, Faults::default());
        assert_eq!((mended.len(), mended[0].why, mended[0].fault.xid()), (1, why, Some(79)));
        assert_eq!(faults(&mut later), Faults::default(), "told once");
    }
    let root = tempfile::tempdir().unwrap();
    ledger(root.path(), first).add(GPU, GPU, 79).unwrap();
    let mut unloaded = ledger(root.path(), || Era { driver: None, ..first() });
    assert!(!faults(&mut unloaded).is_well(GPU), "a driver that is away for now has mended nothing");
}

#[test]
fn an_admin_declares_it_well() {
    let root = tempfile::tempdir().unwrap();
    let mut own = ledger(root.path(), first);
    let other = Uuid::gpu([7; 16]);
    let fill = |own: &mut Ledger| {
        for (device, gpu) in [(GPU, GPU), (PART, GPU), (other, other)] {
            own.add(device, gpu, 63).unwrap();
        }
    };
    let count = |forgotten: Vec<Fault>| forgotten.len();
    fill(&mut own);
    assert_eq!(count(Ledger::open(root.path()).declare_well(Some(PART)).unwrap()), 1, "a part alone");
    assert!(faults(&mut own).of(PART, None).is_none());
    fill(&mut own);
    assert_eq!(count(own.declare_well(Some(GPU)).unwrap()), 2, "a GPU with its parts");
    assert!(faults(&mut own).is_well(GPU) && !faults(&mut own).is_well(other));
    assert_eq!(count(own.declare_well(Some(GPU)).unwrap()), 0);
    fill(&mut own);
    assert_eq!(count(own.declare_well(None).unwrap()), 3, "all");
    assert_eq!(faults(&mut own), Faults::default());
    own.add(GPU, GPU, 63).unwrap();
    fs::remove_file(root.path().join(GPU.to_string())).unwrap();
    assert_eq!(faults(&mut own), Faults::default(), "by hand");
}

#[test]
fn what_cant_be_read_is_a_fault_and_others_files_are_not() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(GPU.to_string());
    for (text, expected) in [("", "EOF"), ("{}", "missing field"), ("\u{0}", "expected value")] {
        fs::write(&path, text).unwrap();
        let known = faults(&mut ledger(root.path(), first));
        let trouble = known.of(GPU, None).unwrap().trouble();
        assert!(trouble.contains(expected) && trouble.contains("--declare-well GPU-"), "{trouble}");
    }
    let mut own = ledger(root.path(), first);
    own.add(GPU, GPU, 79).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert!(faults(&mut own).of(GPU, None).unwrap().trouble().contains("version 2, not 1"));
    own.add(GPU, GPU, 48).unwrap();
    assert_eq!(faults(&mut own).of(GPU, None).unwrap().xids, [48], "a new one takes its place");
    own.declare_well(None).unwrap();
    for name in ["notes.txt", ".GPU-01010101-0101-0101-0101-010101010101-17"] {
        fs::write(root.path().join(name), "{").unwrap();
    }
    assert_eq!(faults(&mut own), Faults::default());
}

#[test]
fn what_cant_be_written_is_known_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("faults");
    // A file is where the directory would be.
    fs::write(&directory, "").unwrap();
    let mut own = ledger(&directory, first);
    own.add(GPU, GPU, 79).unwrap_err();
    own.add(GPU, GPU, 154).unwrap_err();
    own.read().unwrap_err();
    fs::remove_file(&directory).unwrap();
    assert_eq!(faults(&mut own).of(GPU, None).unwrap().xids, [79, 154]);
    own.save_the_unsaved();
    assert_eq!(faults(&mut ledger(&directory, first)).of(GPU, None).unwrap().xids, [79, 154]);
    own.declare_well(None).unwrap();
    assert_eq!(faults(&mut own), Faults::default(), "then it is in the file alone");
}
