//! A container's shares: their files are read together, and whatever is wrong with any of them refuses all.

use super::*;

fn world(files: &[(&str, String)]) -> World {
    files
        .iter()
        .fold(World::default(), |world, (name, text)| world.file(&format!("{SHARES_DIRECTORY}/{name}"), text))
}

fn share(name: &str, index: usize, limits: &str) -> String {
    let uuid = uuid(index);
    format!(
        r#"{{"version":1,"control_file":"/run/vcuda/shares/{name}/control","devices":{{"{uuid}":{{{limits}}}}}}}"#
    )
}

#[test]
fn shares_hold_together_and_outrank_everything() {
    let mut world = world(&[
        ("b.json", share("b", 1, r#""memory":"8GiB","cores":30"#)),
        ("a.json", share("a", 0, r#""memory":"4GiB""#)),
        ("notes.txt", "not a share".to_owned()),
        (".half.json", "{".to_owned()),
    ])
    .file(SYSTEM_FILE, "{")
    .file("/mine.json", r#"{"version":1}"#);
    for (name, value) in [("VCUDA_LIMITS_FILE", "/mine.json"), ("VCUDA_MEMORY_LIMIT", "1TiB")] {
        world.variables.insert(name.to_owned(), value.to_owned());
    }
    let limits = world.load().unwrap();
    assert_eq!(bytes(&limits, &gpus()), [Some(4 * GIB), Some(8 * GIB), None]);
    assert_eq!(world.shares(), [None, Some(300_000), None]);
    assert_eq!(limits.source(), &Source::Shares);
    assert_eq!((limits.digest(), &limits.control_file), (0, &None));
    let [a, b] = limits.parts() else { panic!("two shares") };
    for (part, name, index) in [(a, "a", 0), (b, "b", 1)] {
        assert_eq!(part.source(), &Source::Share(format!("{SHARES_DIRECTORY}/{name}.json").into()));
        assert!(part.names(Path::new(&format!("/run/vcuda/shares/{name}/control"))));
        let of: Vec<bool> = gpus().iter().map(|gpu| part.is_of(gpu.uuid)).collect();
        assert_eq!(of, [index == 0, index == 1, false]);
        assert_ne!(part.digest(), 0);
    }
    assert_eq!(
        limits.warnings,
        [
            "/etc/vcuda/limits.json is ignored: /etc/vcuda/shares.d sets the limits here",
            "VCUDA_MEMORY_LIMIT is ignored: /etc/vcuda/shares.d sets the limits here",
            "VCUDA_LIMITS_FILE is ignored: /etc/vcuda/shares.d sets the limits here",
        ]
    );
}

#[test]
fn a_share_of_a_whole_gpu_is_a_share() {
    let limits = world(&[("all.json", share("all", 2, r#""cores":100"#))]).load().unwrap();
    assert!(!limits.is_unlimited(), "other GPUs are not the container's");
    assert_eq!(bytes(&limits, &gpus()), [None; 3]);
    assert!(limits.parts()[0].is_of(gpus()[2].uuid) && !limits.parts()[0].is_of(gpus()[0].uuid));
}

#[test]
fn what_is_no_share_is_of_every_gpu() {
    let limits = memory("1=4GiB");
    assert_eq!(limits.parts(), std::slice::from_ref(&limits));
    assert!(gpus().iter().all(|gpu| limits.is_of(gpu.uuid)));
}

#[test]
fn a_directory_without_shares_is_no_freedom() {
    let said = "/etc/vcuda/shares.d: has no share in it; start the container with a share, such as --device \
                vcuda.dev/share=half, or without the directory";
    assert_eq!(world(&[("README", String::new())]).mistake(), said);
    let empty = Limits::load(&|_| None, &|_| Ok(None), &|_| Ok(Some(Vec::new())));
    assert_eq!(empty.unwrap_err().to_string(), said);
    let closed = Limits::load(&|_| None, &|_| Ok(None), &|_| Err(io::ErrorKind::PermissionDenied.into()));
    let closed = closed.unwrap_err().to_string();
    assert!(
        closed.starts_with("/etc/vcuda/shares.d: can't be read: permission denied; make it readable"),
        "{closed}"
    );
}

#[test]
fn half_a_share_is_none() {
    let good = || ("a.json", share("a", 0, r#""memory":"4GiB""#));
    let whole = share("b", 1, r#""memory":"4GiB""#);
    for length in 0..whole.len() {
        let mistake = world(&[good(), ("b.json", whole[..length].to_owned())]).mistake();
        assert!(mistake.starts_with("/etc/vcuda/shares.d/b.json"), "{length}: {mistake}");
    }
    let control = r#""control_file":"/run/b""#;
    let device = r#"{"memory":"4GiB"}"#;
    let (first, second) = (uuid(1), uuid(2));
    let not_one = "/etc/vcuda/shares.d/b.json: is not of one GPU; a share's file has \"control_file\": \
                   \"/run/vcuda/shares/half/control\" and one of \"devices\", by its whole UUID";
    for members in [
        control.to_owned(),
        format!(r#"{control},"default":{device}"#),
        format!(r#"{control},"default":{device},"devices":{{"{first}":{device}}}"#),
        format!(r#"{control},"devices":{{"{first}":{device},"{second}":{device}}}"#),
        format!(r#"{control},"devices":{{"1":{device}}}"#),
        format!(r#"{control},"devices":{{"GPU-ab":{device}}}"#),
    ] {
        assert_eq!(
            world(&[good(), ("b.json", format!(r#"{{"version":1,{members}}}"#))]).mistake(),
            not_one,
            "{members}"
        );
    }
    let no_control = format!(r#"{{"version":1,"devices":{{"{first}":{device}}}}}"#);
    let mistake = world(&[("b.json", no_control)]).mistake();
    assert!(mistake.starts_with("/etc/vcuda/shares.d/b.json: names no control file; "), "{mistake}");
}

#[test]
fn two_shares_of_one_gpu_are_refused() {
    let mistake =
        |b: String| world(&[("a.json", share("a", 0, r#""memory":"4GiB""#)), ("b.json", b)]).mistake();
    assert_eq!(
        mistake(share("b", 0, r#""cores":30"#)),
        "/etc/vcuda/shares.d/b.json: this share and /etc/vcuda/shares.d/a.json are of the same GPU; give the container one \
         share of each GPU: a larger one"
    );
    let same_file = mistake(share("a", 1, r#""cores":30"#));
    assert!(same_file.contains("have the same control file"), "{same_file}");
}
