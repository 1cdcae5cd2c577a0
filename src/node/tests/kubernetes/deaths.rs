//! An agent that is killed between any two changes to the disk, and the one that comes after it: no share is lost, left or
//! made twice, and no GPU is promised beyond what it has.

use crate::world::{GIB, Node, claim, inventory, result};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;
use vcuda_node::kubernetes::allocation::{CLAIM_UID, Part, parts};
use vcuda_shares::step::killed_after;

const CLAIMS: usize = 6;
const KILLS: usize = 1000;

/// One claim of the test: its UID, and what of it is there.
struct Claimed {
    uid: String,
    parts: Vec<Part>,
}

/// Claims with one to three shares each; all of them fit onto the two GPUs.
fn claims() -> Vec<Claimed> {
    let one = |number: usize| {
        let uid = format!("{number}0000000-0000-4000-8000-000000000000");
        let id = |part: usize| u32::try_from(number * 10 + part).unwrap();
        let results: Vec<_> = (0..=number % 3)
            .map(|part| result(&format!("r{part}"), (number + part) % 2, "2Gi", "9", id(part)))
            .collect();
        let claim = serde_json::from_value(claim("c", &uid, &results)).unwrap();
        let parts = parts(&claim, "n1", &inventory()).unwrap();
        Claimed { uid, parts }
    };
    (0..CLAIMS).map(one).collect()
}

/// What is there, by claim: the names. Each share must be whole, and no GPU may be promised beyond what it has.
#[track_caller]
fn look(node: &Node) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut promised: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for share in node.shares() {
        let (memory, cores) = share.granted().unwrap();
        assert_eq!((memory, cores), (Some(2 * GIB), Some("9".parse().unwrap())));
        let sum = promised.entry(share.wanted.gpu_uuid.to_string()).or_default();
        *sum = (sum.0 + memory.unwrap(), sum.1 + u64::from(cores.unwrap().ppm()));
        vcuda_core::control::Control::open_existing(share.control_file()).unwrap();
        found.entry(share.wanted.labels[CLAIM_UID].clone()).or_default().push(share.name().to_owned());
    }
    for (gpu, (memory, cores)) in promised {
        assert!(memory <= 24 * GIB && cores <= 1_000_000, "{gpu} promises {memory} bytes and {cores} ppm");
    }
    found
}

fn names(claim: &Claimed) -> Vec<String> {
    claim.parts.iter().map(|part| part.wanted.as_ref().unwrap().name.clone()).collect()
}

#[test]
fn a_thousand_deaths_lose_leave_and_double_nothing() {
    let node = Node::new();
    let claims = claims();
    let mut is_prepared = [false; CLAIMS];
    let (mut kills, mut calls) = (0, 0);
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut choose = |range: std::ops::Range<usize>| range.new_tree(&mut runner).unwrap().current();

    while kills < KILLS {
        let number = choose(0..CLAIMS);
        let claim = &claims[number];
        // Kubelet asks again until it has an answer, each time of an agent that was started anew.
        let mut is_first = true;
        loop {
            calls += 1;
            // Whole operations take some thirty steps; now and then nobody is killed.
            let steps = u32::try_from(choose(0..45)).unwrap();
            let preparer = node.preparer();
            let done = if is_prepared[number] {
                killed_after(steps, || preparer.unprepare(&claim.uid).map(|()| Vec::new()))
            } else {
                killed_after(steps, || preparer.prepare(&claim.uid, &claim.parts, |_| BTreeMap::new()))
            };
            if let Some(answer) = done {
                let devices = answer.unwrap();
                assert_eq!(devices.len(), if is_prepared[number] { 0 } else { claim.parts.len() });
                is_prepared[number] = !is_prepared[number];
                break;
            }
            kills += 1;
            // The new agent begins with a sweep, which may be killed as well. Half of the time it has not come to it.
            if choose(0..2) == 0 {
                let steps = u32::try_from(choose(0..12)).unwrap();
                if killed_after(steps, || node.store().sweep(|_| true).unwrap()).is_none() {
                    kills += 1;
                    node.store().sweep(|_| true).unwrap();
                }
                node.names();
            }
            let found = look(&node);
            for (other, claim) in claims.iter().enumerate().filter(|(other, _)| *other != number) {
                let expected = is_prepared[other].then(|| names(claim));
                assert_eq!(found.get(&claim.uid), expected.as_ref(), "another claim's");
            }
            // Where kubelet gives up on a pod that it has not prepared, it unprepares.
            if !is_prepared[number] && !is_first && choose(0..4) == 0 {
                node.preparer().unprepare(&claim.uid).unwrap();
                assert_eq!(look(&node).get(&claim.uid), None);
                break;
            }
            is_first = false;
        }
        let found = look(&node);
        for (other, claim) in claims.iter().enumerate() {
            let expected = is_prepared[other].then(|| names(claim));
            assert_eq!(found.get(&claim.uid), expected.as_ref(), "after {calls} calls and {kills} deaths");
        }
    }
    assert!(calls > KILLS / 2, "{calls} calls");
    for claim in &claims {
        node.preparer().unprepare(&claim.uid).unwrap();
    }
    node.store().sweep(|_| true).unwrap();
    assert!(node.names().is_empty());
}
