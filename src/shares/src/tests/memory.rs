//! Control files in memory: after the machine's start, and beside those of shares from before; and how long a share takes.

use super::*;

#[test]
fn what_was_in_memory_is_made_anew_after_the_machines_start() {
    let world = world();
    let share = world.store.create(&wanted("half")).unwrap();
    assert_eq!(share.control_file(), world.path("run/shares/half/control"));
    assert_eq!(world.store.restore().unwrap(), [""; 0], "nothing is lacking");
    fs::remove_dir_all(world.path("run")).unwrap();
    assert_eq!(world.store.restore().unwrap(), ["half"]);
    world.check();
    // Of what was not there, a container runtime made directories.
    fs::remove_dir_all(world.path("run")).unwrap();
    fs::create_dir_all(world.path("run/shares/half/control")).unwrap();
    fs::create_dir_all(world.path("run/arbiter")).unwrap();
    assert_eq!(world.store.restore().unwrap(), ["half"]);
    world.check();
    // What asks for the same again, or looks through all, does it as well.
    fs::remove_dir_all(world.path("run")).unwrap();
    world.store.create(&wanted("half")).unwrap();
    world.check();
    fs::remove_dir_all(world.path("run")).unwrap();
    assert_eq!(world.store.sweep(|_| true).unwrap().restored, ["half"]);
    world.check();
    fs::create_dir(world.path("run/shares/gone")).unwrap();
    assert_eq!(world.store.sweep(|_| true).unwrap().remains, [world.path("run/shares/gone")]);
    assert!(world.store.delete("half").unwrap());
    assert_eq!(world.names(), [""; 0]);
}

#[test]
fn a_share_from_before_stays_where_it_is_and_turns_are_taken_in_one_file() {
    let world = world();
    let before = Store::open(Places { control: world.path("var/shares"), ..world.store.places().clone() });
    let older = before.create(&wanted("older")).unwrap();
    assert_eq!(older.control_file(), world.path("var/shares/older/control"));
    let newer = world.store.create(&wanted("newer")).unwrap();
    assert_eq!(newer.control_file(), world.path("run/shares/newer/control"));
    assert!(world.read("cdi/vcuda-newer.json").contains("var/arbiter"), "one file for both");
    world.check();
    world.check();
    assert!(world.store.delete("newer").unwrap());
    world.store.create(&wanted("newer")).unwrap();
    assert!(world.read("cdi/vcuda-newer.json").contains("var/arbiter"), "older may run");
    assert!(world.store.delete("older").unwrap() && world.store.delete("newer").unwrap());
    assert_eq!(world.names(), [""; 0]);
    world.store.create(&wanted("newer")).unwrap();
    assert!(world.read("cdi/vcuda-newer.json").contains("run/arbiter"), "nobody is left");
    world.check();
}

/// How long one more share takes beside others of the same GPU: cargo test -p vcuda-shares --release -- --ignored --nocapture
#[test]
#[ignore = "prints how long it takes"]
fn how_long_one_more_takes() {
    let world = world();
    let one = |number: u32| Wanted {
        memory_bytes: Some(GIB / 16),
        cores: "0.05".parse().ok(),
        physical_bytes: Some(80 * GIB),
        made_by: MadeBy::Dra,
        ..wanted(&format!("share-{number}"))
    };
    let mut made = 0;
    for others in [1, 100, 1000] {
        while made < others {
            world.store.create(&one(made)).unwrap();
            made += 1;
        }
        let mut took: Vec<Duration> = (0..20)
            .map(|_| {
                let begun = std::time::Instant::now();
                world.store.create(&one(u32::MAX)).unwrap();
                let took = begun.elapsed();
                world.store.delete(one(u32::MAX).name.as_str()).unwrap();
                took
            })
            .collect();
        took.sort();
        println!("beside {others}: {:?} in the middle, {:?} at most", took[10], took[19]);
    }
}
