//! The store on a real disk, whole and killed at every step.

mod memory;

use super::*;
use crate::step::counted::killed_after;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcuda_core::control::Control;
use vcuda_core::device::Uuid;

const GIB: u64 = 1 << 30;
const GPU: Uuid = Uuid::gpu([0xaa; 16]);
const OTHER_GPU: Uuid = Uuid::gpu([0xbb; 16]);

struct World {
    root: tempfile::TempDir,
    store: Store,
}

fn world() -> World {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::write(path("libvcuda.so"), "").unwrap();
    let store = Store::open(Places {
        shares: path("var/shares"),
        cdi: path("cdi"),
        control: path("run/shares"),
        library: path("libvcuda.so"),
        preload: path("var/ld.so.preload"),
    });
    World { root, store }
}

fn wanted(name: &str) -> Wanted {
    Wanted { memory_bytes: Some(4 * GIB), cores: "50".parse().ok(), ..Wanted::new(name, GPU, MadeBy::Cli) }
}

impl World {
    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The names of all that there is of shares and of CDI files.
    fn names(&self) -> Vec<String> {
        let below = |directory: &str| {
            let entries = fs::read_dir(self.path(directory)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        let mut names = [below("var/shares"), below("cdi")].concat();
        // Whose control file is there without it.
        names.extend(
            below("run/shares")
                .into_iter()
                .filter(|name| !names.contains(name))
                .map(|name| format!("run/{name}"))
                .collect::<Vec<_>>(),
        );
        names.retain(|name| name != ".lock");
        names.sort();
        names
    }

    /// What must hold at every moment: who is shown to runtimes is whole, and every share is whole.
    fn check(&self) {
        for name in self.names() {
            if let Some(share) = crate::share::share_of_cdi_file(&name) {
                let share = self.store.find(share).unwrap().expect("a CDI file without its share");
                let cdi: serde_json::Value =
                    serde_json::from_slice(&fs::read(share.cdi_file()).unwrap()).unwrap();
                for mount in cdi["devices"][0]["containerEdits"]["mounts"].as_array().unwrap() {
                    assert!(Path::new(mount["hostPath"].as_str().unwrap()).is_file(), "{mount}");
                }
            }
            if is_usable(&name) && self.path("var/shares").join(&name).is_dir() {
                let share = self.store.find(&name).unwrap().expect("a share by its name only");
                assert_eq!(share.granted().unwrap(), (share.wanted.memory_bytes, share.wanted.cores));
                Control::open_existing(share.control_file()).unwrap();
            }
        }
    }
}

#[test]
fn a_share_is_what_was_asked_for() {
    let world = world();
    let labels = BTreeMap::from([("namespace".to_owned(), "team".to_owned()), ("claim".into(), "7".into())]);
    let wanted = Wanted { idle_release: Some(Duration::from_secs(60)), labels, ..wanted("half") };
    let share = world.store.create(&wanted).unwrap();
    assert_eq!(share.cdi_id(), "vcuda.dev/share=half");
    assert_eq!(
        world.read("var/shares/half/limits.json"),
        "{ \"version\": 1,\n  \"control_file\": \"/run/vcuda/shares/half/control\",\n  \"arbiter_file\": \"/run/vcuda/arbiter\",\n  \"idle_release\": \"60000ms\",\n  \
         \"devices\": {\n    \"GPU-aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa\": { \"memory\": \"4GiB\", \"cores\": 50 } } }\n"
    );
    let record: serde_json::Value = serde_json::from_str(&world.read("var/shares/half/share.json")).unwrap();
    assert_eq!((record["share"].as_str(), record["namespace"].as_str()), (Some("half"), Some("team")));
    assert_eq!(world.read("var/ld.so.preload"), "/usr/local/vcuda/libvcuda.so\n");
    assert_eq!(world.store.list().unwrap(), std::slice::from_ref(&share));
    assert_eq!(world.store.find("half").unwrap(), Some(share));
    assert_eq!(world.names(), ["half", "vcuda-half.json"]);
    for (name, mode) in [
        ("var/shares", 0o755),
        ("var/shares/half", 0o711),
        ("var/shares/half/limits.json", 0o644),
        ("var/shares/half/share.json", 0o644),
        ("run/shares", 0o755),
        ("run/shares/half", 0o755),
        ("run/shares/half/control", 0o666),
        ("cdi/vcuda-half.json", 0o644),
    ] {
        assert_eq!(fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o7777, mode, "{name}");
    }
    assert!(world.store.delete("half").unwrap());
    assert!(!world.store.delete("half").unwrap());
    assert_eq!(world.names(), [""; 0]);
}

#[test]
fn a_runtime_is_told_in_the_oldest_words() {
    let world = world();
    world.store.create(&wanted("half")).unwrap();
    let cdi: serde_json::Value = serde_json::from_str(&world.read("cdi/vcuda-half.json")).unwrap();
    let root = world.root.path().to_str().unwrap();
    let mount = |host: &str, container: &str, options: &[&str]| serde_json::json!({ "hostPath": format!("{root}/{host}"), "containerPath": container, "options": options });
    let ro = ["ro", "nosuid", "nodev", "noexec", "bind"];
    let edits = serde_json::json!({
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "mounts": [
            mount("libvcuda.so", "/usr/local/vcuda/libvcuda.so", &["ro", "nosuid", "nodev", "bind"]),
            mount("var/shares/half/limits.json", "/etc/vcuda/shares.d/half.json", &ro),
            mount("run/shares/half/control", "/run/vcuda/shares/half/control", &["rw", "nosuid", "nodev", "noexec", "bind"]),
            mount("run/arbiter", "/run/vcuda/arbiter", &["rw", "nosuid", "nodev", "noexec", "bind"]),
            mount("var/ld.so.preload", "/etc/ld.so.preload", &ro),
        ],
    });
    let expected = serde_json::json!({
        "cdiVersion": "0.5.0", "kind": "vcuda.dev/share", "devices": [{ "name": "half", "containerEdits": edits }]
    });
    assert_eq!(cdi, expected);

    let merging = Wanted { merge_with: Some("/usr/bin/vcuda".into()), ..wanted("merging") };
    world.store.create(&merging).unwrap();
    let cdi: serde_json::Value = serde_json::from_str(&world.read("cdi/vcuda-merging.json")).unwrap();
    let edits = &cdi["devices"][0]["containerEdits"];
    assert_eq!(edits["mounts"].as_array().unwrap().len(), 4, "no mount over the image's own file");
    let args = ["vcuda", "merge-preload", &format!("{root}/var/shares/merging")];
    let hook = serde_json::json!([{ "hookName": "createContainer", "path": "/usr/bin/vcuda", "args": args }]);
    assert_eq!(edits["hooks"], hook);
}

#[test]
fn the_same_again_is_the_same_and_another_is_refused() {
    let world = world();
    let share = world.store.create(&wanted("half")).unwrap();
    fs::remove_file(share.cdi_file()).unwrap();
    // Changed since by vcuda set: that stays.
    let changed = world.read("var/shares/half/limits.json").replace("4GiB", "6GiB");
    fs::write(share.limits_file(), &changed).unwrap();
    assert_eq!(world.store.create(&wanted("half")).unwrap(), share);
    assert_eq!(world.read("var/shares/half/limits.json"), changed);
    assert_eq!(world.names(), ["half", "vcuda-half.json"]);
    let other = Wanted { memory_bytes: Some(GIB), ..wanted("half") };
    let error = world.store.create(&other).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "there is a share half already, of GPU-aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa with 6GiB and 50 % of its time, \
             made by vcuda share create; choose another name"
        ),
        "{error}"
    );
}

#[test]
fn whose_a_share_is_may_be_said_later() {
    let labels = |pod: &str| BTreeMap::from([("pod".to_owned(), pod.to_owned())]);
    let world = world();
    assert!(!world.store.relabel("half", &labels("a")).unwrap(), "no share");
    let share = world.store.create(&wanted("half")).unwrap();
    let changed = world.read("var/shares/half/limits.json").replace("4GiB", "6GiB");
    fs::write(share.limits_file(), &changed).unwrap();
    assert!(world.store.relabel("half", &labels("a")).unwrap());
    assert!(!world.store.relabel("half", &labels("a")).unwrap(), "as it was");
    let found = world.store.find("half").unwrap().unwrap();
    assert_eq!(found.wanted, Wanted { labels: labels("a"), ..wanted("half") });
    let record: serde_json::Value = serde_json::from_str(&world.read("var/shares/half/share.json")).unwrap();
    assert_eq!(record["pod"].as_str(), Some("a"), "where the agent looks");
    assert_eq!(world.read("var/shares/half/limits.json"), changed);
    assert_eq!(world.names(), ["half", "vcuda-half.json"]);
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let world = world();
    for name in ["", "a/b", "..", "17", "half.json"] {
        let refused = world.store.create(&wanted(name)).unwrap_err();
        assert!(matches!(refused, ShareError::Unusable(_)), "{refused}");
        assert!(matches!(world.store.delete(name), Err(ShareError::Unusable(_))));
        assert_eq!(world.store.find(name).unwrap(), None);
    }
    let nothing = Wanted { memory_bytes: Some(0), ..wanted("nothing") };
    assert!(matches!(world.store.create(&nothing), Err(ShareError::Limits(_))));
    world.store.sweep(|_| true).unwrap();
    assert_eq!(world.names(), [""; 0]);
    fs::remove_file(world.path("libvcuda.so")).unwrap();
    assert!(matches!(world.store.create(&wanted("half")), Err(ShareError::NoLibrary(_))));
    let nowhere =
        Store::open(Places { shares: "/nonexistent/shares".into(), ..world.store.places().clone() });
    assert_eq!(nowhere.list().unwrap(), []);
    assert!(!nowhere.delete("half").unwrap());
    assert_eq!(nowhere.sweep(|_| true).unwrap(), Swept::default());
}

#[test]
fn no_more_is_promised_than_there_is() {
    let world = world();
    let of = |name: &str, gpu_uuid, gib: Option<u64>, cores: &str| Wanted {
        gpu_uuid,
        memory_bytes: gib.map(|gib| gib * GIB),
        cores: cores.parse().ok(),
        physical_bytes: Some(16 * GIB),
        ..wanted(name)
    };
    let refused = |wanted: &Wanted| world.store.create(wanted).unwrap_err().to_string();
    world.store.create(&of("a", GPU, Some(12), "50")).unwrap();
    assert_eq!(
        refused(&of("b", GPU, Some(5), "50")),
        "GPU-aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa has 4GiB of 16GiB of memory left to promise, and 5GiB were asked for (a has \
         12GiB); ask for less, delete a share, or promise more than there is with --overcommit"
    );
    let time = refused(&of("b", GPU, Some(4), "50.0001"));
    assert!(
        time.contains("has 50 % of 100 % of time left to promise, and 50.0001 % were asked for (a has 50 %)"),
        "{time}"
    );
    world.store.create(&of("b", GPU, Some(4), "50")).unwrap();
    let full = refused(&of("c", GPU, Some(1), ""));
    assert!(full.contains("has nothing of 16GiB of memory left to promise"), "{full}");
    world.store.create(&of("c", OTHER_GPU, Some(16), "")).unwrap();
    let alone = refused(&of("d", Uuid::gpu([1; 16]), Some(17), ""));
    assert!(alone.contains("and 17GiB were asked for (it has no other shares)"), "{alone}");
    // Who asks for nothing of a sort is promised nothing of it.
    world.store.create(&of("d", GPU, None, "")).unwrap();
    world.store.create(&Wanted { physical_bytes: None, ..of("e", GPU, Some(8), "") }).unwrap();
    // What a share was given since counts, not what it was made with.
    world.store.delete("e").unwrap();
    let a = world.store.find("a").unwrap().unwrap();
    fs::write(a.limits_file(), fs::read_to_string(a.limits_file()).unwrap().replace("12GiB", "1GiB"))
        .unwrap();
    world.store.create(&of("e", GPU, Some(11), "")).unwrap();
}

#[test]
fn a_sweep_removes_what_is_stale_and_shows_the_rest() {
    let world = world();
    for name in ["stays", "goes"] {
        world.store.create(&Wanted { made_by: MadeBy::Dra, ..wanted(name) }).unwrap();
    }
    let elsewhere = Store::open(Places { cdi: world.path("etc"), ..world.store.places().clone() });
    elsewhere.create(&wanted("persons")).unwrap();
    fs::remove_dir_all(world.path("cdi")).unwrap();
    fs::create_dir(world.path("cdi")).unwrap();
    for stray in ["vcuda-gone.json", "vcuda-other.json", "nvidia.json", ".vcuda-x.json.new"] {
        let kind = if stray.contains("other") { "other.dev/share" } else { "vcuda.dev/share" };
        fs::write(world.path("cdi").join(stray), format!("{{\"kind\":\"{kind}\"}}")).unwrap();
    }
    for stray in ["half", ".half.new", ".more.gone", ".hidden"] {
        fs::create_dir(world.path("var/shares").join(stray)).unwrap();
    }
    let swept =
        world.store.sweep(|share| share.wanted.made_by != MadeBy::Dra || share.name() == "stays").unwrap();
    assert_eq!((swept.removed, swept.restored), (vec!["goes".to_owned()], vec!["stays".to_owned()]));
    assert_eq!(swept.remains.len(), 5, "{:?}", swept.remains);
    assert_eq!(
        world.names(),
        [".hidden", "nvidia.json", "persons", "stays", "vcuda-other.json", "vcuda-stays.json"]
    );
    assert!(world.path("etc/vcuda-persons.json").exists(), "another store's");
    assert_eq!(world.store.sweep(|_| true).unwrap(), Swept::default(), "nothing is left to do");
}

/// Runs `operation` on a store that `prepare` has brought into being, killed after every number of steps, and looks
/// whether `mend` then comes to what it should.
fn at_every_step(prepare: impl Fn(&World), operation: impl Fn(&World), mend: impl Fn(&World)) {
    let mut steps = 0;
    loop {
        let world = world();
        prepare(&world);
        let ended = killed_after(steps, || operation(&world)).is_none();
        world.check();
        mend(&world);
        world.check();
        if !ended {
            break;
        }
        steps += 1;
    }
    assert!(steps > 3, "{steps}");
}

#[test]
fn whoever_is_killed_leaves_a_share_or_none() {
    let create = |world: &World| drop(world.store.create(&wanted("half")).unwrap());
    let delete = |world: &World| {
        world.store.delete("half").unwrap();
    };
    let keep = |world: &World| drop(world.store.sweep(|_| true).unwrap());
    let is_there = |world: &World| assert_eq!(world.names(), ["half", "vcuda-half.json"]);
    let is_gone = |world: &World| assert_eq!(world.names(), [""; 0]);
    at_every_step(
        |_| {},
        create,
        |world| {
            create(world);
            is_there(world);
        },
    );
    at_every_step(
        |_| {},
        create,
        |world| {
            delete(world);
            is_gone(world);
        },
    );
    at_every_step(
        |_| {},
        create,
        |world| {
            keep(world);
            let names = world.names();
            assert!(names.is_empty() || names == ["half", "vcuda-half.json"], "{names:?}");
        },
    );
    at_every_step(create, delete, |world| {
        create(world);
        is_there(world);
    });
    at_every_step(create, delete, |world| {
        delete(world);
        is_gone(world);
    });
    let label = |world: &World, pod: &str| {
        let labels = BTreeMap::from([("pod".to_owned(), pod.to_owned())]);
        world.store.relabel("half", &labels).unwrap();
    };
    at_every_step(
        create,
        |world| label(world, "a"),
        |world| {
            label(world, "b");
            assert_eq!(world.store.find("half").unwrap().unwrap().wanted.labels["pod"], "b");
            delete(world);
            is_gone(world);
        },
    );
    let drop_all = |world: &World| drop(world.store.sweep(|_| false).unwrap());
    at_every_step(create, drop_all, |world| {
        drop_all(world);
        is_gone(world);
    });
}

#[derive(Clone, Debug)]
enum Act {
    Create(u8, u8),
    Delete(u8),
    Sweep(u8),
}

fn act() -> impl Strategy<Value = (Act, Option<u32>)> {
    let act = prop_oneof![
        (0..3u8, 1..12u8).prop_map(|(share, gib)| Act::Create(share, gib)),
        (0..3u8).prop_map(Act::Delete),
        any::<u8>().prop_map(Act::Sweep),
    ];
    (act, proptest::option::weighted(0.5, 0..30u32))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Any operations, half of them killed somewhere: no share is half, and the GPU is never promised twice.
    #[test]
    fn no_order_of_operations_and_deaths_breaks_anything(acts in proptest::collection::vec(act(), 1..16)) {
        let world = world();
        for (act, killed) in acts {
            killed_after(killed.unwrap_or(u32::MAX), || match act {
                Act::Create(share, gib) => {
                    let memory_bytes = Some(u64::from(gib) * GIB);
                    let name = format!("share-{share}");
                    let _ = world.store.create(&Wanted {
                        memory_bytes,
                        cores: format!("{}", u32::from(gib) * 8).parse().ok(),
                        physical_bytes: Some(16 * GIB),
                        made_by: MadeBy::Plugin,
                        ..wanted(&name)
                    });
                }
                Act::Delete(share) => {
                    world.store.delete(&format!("share-{share}")).unwrap();
                }
                Act::Sweep(kept) => {
                    let keep = |share: &Share| kept & 1 << (share.name().as_bytes()[6] - b'0') != 0;
                    drop(world.store.sweep(keep).unwrap());
                }
            });
            world.check();
            let granted: Vec<_> = world.store.list().unwrap().iter().map(|share| share.granted().unwrap()).collect();
            prop_assert!(granted.iter().map(|(memory, _)| memory.unwrap_or(0)).sum::<u64>() <= 16 * GIB);
            prop_assert!(granted.iter().map(|(_, cores)| cores.map_or(0, |cores| cores.ppm())).sum::<u32>() <= 1_000_000);
        }
        world.store.sweep(|_| false).unwrap();
        prop_assert_eq!(world.names(), [""; 0]);
    }
}
