//! HAMi's variables, which mean what they mean there.

use super::*;

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
