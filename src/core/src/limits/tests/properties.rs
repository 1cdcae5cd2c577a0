//! What holds for every text, not only for those in the tables.

use super::*;
use crate::limits::json_keys::JsonKeys;
use proptest::prelude::*;

/// Strings near the grammar, where mistakes hide.
fn nearly_a_limit() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9.]{0,45}[ ]?[a-zA-Z%]{0,4}",
        "(([0-9]{1,3}|GPU-[0-9a-f]{0,9})=[0-9]{1,5}[KMGT%]?,?){0,4}",
        "\\PC{0,60}",
    ]
}

fn nearly_a_share() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ ]?-?[0-9.]{0,8}[ ]?%?",
        "(([0-2]|GPU-(aa|ab|cd)[0-9a-f]{0,2})=[0-9]{1,3}(\\.[0-9]{1,5})?%?,?){0,4}",
        "\\PC{0,60}",
    ]
}

/// Has `entries` say `value` of what `selector` names, if there is one.
fn replace<T>(entries: &mut Vec<Entry<T>>, selector: Selector, value: Option<T>) {
    entries.retain(|entry| entry.selector != selector);
    entries.extend(value.map(|value| Entry { selector, value, place: "here".to_owned() }));
}

/// A JSON value whose objects have distinct keys.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map(
                "(memory|cores|elastic|weight|priority|devices|default|version|\\PC{0,4})",
                inner,
                0..5
            )
            .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn bytes_survive_display_and_parse(bytes in 1..=u64::MAX) {
        let amount = Amount::Bytes(bytes);
        prop_assert_eq!(Amount::parse("x", &amount.to_string()), Ok(amount));
    }

    #[test]
    fn shares_survive_display_and_parse(parts in 1..=100_000_000u32) {
        let amount = Amount::Share(parts);
        prop_assert_eq!(Amount::parse("x", &amount.to_string()), Ok(amount));
    }

    #[test]
    fn decimals_are_exact(whole in 0u64..1 << 20, fraction in 0u64..1_000_000_000) {
        let bytes = u128::from(whole) * (1 << 40) + u128::from(fraction) * (1 << 40) / 1_000_000_000;
        prop_assume!(bytes > 0);
        let parsed = Amount::parse("x", &format!("{whole}.{fraction:09}TiB")).unwrap();
        prop_assert_eq!(parsed, Amount::Bytes(bytes as u64));
    }

    #[test]
    fn a_limit_is_never_above_physical_nor_zero(
        amount in prop_oneof![
            (1..=u64::MAX).prop_map(Amount::Bytes),
            (1..=100_000_000u32).prop_map(Amount::Share),
        ],
        physical in 1..=u64::MAX,
    ) {
        let limit = amount.of(physical);
        prop_assert!(limit >= 1 && limit <= physical);
    }

    #[test]
    fn any_text_is_a_limit_or_a_one_line_mistake(text in nearly_a_limit()) {
        let world = World::variables(&[("VCUDA_MEMORY_LIMIT", &text)]);
        match world.load() {
            Ok(limits) => {
                prop_assert!(!limits.is_unlimited(), "{text:?} was read as no limit");
                if let Ok(resolved) = limits.resolve(&gpus()) {
                    prop_assert!(resolved.iter().any(|limits| limits.memory_bytes.is_some()));
                }
            }
            Err(mistake) => prop_assert!(!mistake.to_string().contains('\n')),
        }
    }

    #[test]
    fn any_text_is_a_share_or_a_one_line_mistake(text in nearly_a_share()) {
        let world = World::variables(&[("VCUDA_CORE_LIMIT", &text)]);
        match world.load() {
            Ok(limits) => {
                prop_assert!(!limits.cores().is_empty(), "{text:?} was read as nothing");
                if let Ok(resolved) = limits.resolve(&gpus()) {
                    let is_limited = resolved.iter().any(|limits| limits.share.is_some());
                    prop_assert_eq!(is_limited, !limits.is_unlimited());
                }
            }
            Err(mistake) => prop_assert!(!mistake.to_string().contains('\n')),
        }
    }

    #[test]
    fn any_text_is_sharing_or_a_one_line_mistake(
        variable in 0..3usize,
        text in prop_oneof![
            "[ ]?(true|false|0|1|high|normal|[0-9]{1,6})[ ]?",
            "(([0-2]|GPU-(aa|ab|cd)[0-9a-f]{0,2})=(true|0|high|normal|[0-9]{1,6}),?){0,3}",
            "\\PC{0,60}",
        ],
    ) {
        let variable = [ELASTIC_VARIABLE, WEIGHT_VARIABLE, PRIORITY_VARIABLE][variable];
        match World::variables(&[(variable, &text)]).load() {
            Ok(limits) => {
                prop_assert!(!limits.is_unlimited(), "{text:?} was read as nothing");
                if let Ok(resolved) = limits.resolve(&gpus()) {
                    prop_assert!(resolved.iter().any(|limits| limits.sharing.is_some()));
                    prop_assert!(resolved.iter().all(|limits| limits.share.is_none()));
                }
            }
            Err(mistake) => {
                prop_assert!(!mistake.to_string().contains('\n'));
                prop_assert_eq!(mistake.place(), variable);
            }
        }
    }

    #[test]
    fn what_is_written_reads_as_the_same(
        limits in prop::collection::vec((
            0..4usize,
            prop::option::of(1..1_000_000u32),
            prop::option::of(any::<bool>()),
            prop::option::of(1..=10_000u32),
            prop::option::of(any::<bool>()),
        ), 0..4),
    ) {
        let mut written = Limits::none(Source::Environment);
        for (gpu, cores, elastic, weight, is_high) in limits {
            let selector = || if gpu == 3 { Selector::Every } else { Selector::Index(gpu as u32) };
            let priority = is_high.map(|is_high| if is_high { Priority::High } else { Priority::Normal });
            replace(&mut written.cores, selector(), cores.and_then(Share::from_ppm));
            replace(&mut written.elastic, selector(), elastic);
            replace(&mut written.weights, selector(), weight.and_then(Weight::new));
            replace(&mut written.priorities, selector(), priority);
        }
        let read = parse_file(Path::new("/limits.json"), Source::SystemFile, written.to_text().as_bytes());
        prop_assert_eq!(read.unwrap().resolve(&gpus()), written.resolve(&gpus()));
    }

    #[test]
    fn any_json_is_limits_or_a_mistake(value in json(), version in any::<bool>()) {
        let mut value = value;
        if let (true, serde_json::Value::Object(members)) = (version, &mut value) {
            members.insert("version".into(), 1.into());
        }
        let _ = World::default().file(SYSTEM_FILE, &value.to_string()).load();
    }

    #[test]
    fn any_bytes_are_limits_or_a_mistake(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = JsonKeys::scan(&bytes);
        let world = World { files: [(SYSTEM_FILE.into(), bytes)].into(), ..World::default() };
        prop_assert!(world.load().is_err());
    }

    #[test]
    fn duplicate_keys_are_found_and_only_they(value in json(), key in "\\PC{0,4}") {
        let text = value.to_string();
        prop_assert!(JsonKeys::scan(text.as_bytes()).is_ok());
        let key = serde_json::Value::from(key).to_string();
        let doubled = format!("[{{{key}:{text},\"\":[],{key}:{text}}}]");
        prop_assert!(JsonKeys::scan(doubled.as_bytes()).is_err());
    }
}
