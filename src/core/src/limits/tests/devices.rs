//! Which GPUs a limit is for: all, by number, by UUID, and those that are not there.

use super::*;

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
