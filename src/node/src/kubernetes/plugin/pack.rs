//! Which of the free slices a container should get: on as few GPUs as hold so many, and where that leaves the fewest free.
//!
//! Pure. What it says is advice to kubelet.

use std::collections::BTreeMap;

use vcuda_core::device::Uuid;

use super::cut::{device_id, parse_device_id};

/// `size` of the `available` ones with all of `required`, the best to have together. Those of other names are passed over.
pub fn choose(available: &[String], required: &[String], size: usize) -> Vec<String> {
    let mut chosen: Vec<(Uuid, u32)> = required.iter().filter_map(|id| parse_device_id(id)).collect();
    let mut free: BTreeMap<Uuid, Vec<u32>> = BTreeMap::new();
    for (gpu, number) in available.iter().filter_map(|id| parse_device_id(id)) {
        if !chosen.contains(&(gpu, number)) {
            free.entry(gpu).or_default().push(number);
        }
    }
    free.values_mut().for_each(|numbers| numbers.sort_unstable());
    while chosen.len() < size {
        let wanted = size - chosen.len();
        let is_begun = |gpu: Uuid| chosen.iter().any(|(begun, _)| *begun == gpu);
        // First where some are required, then the tightest fit, and without one where most is free.
        let best = free.iter().filter(|(_, numbers)| !numbers.is_empty()).min_by_key(|(gpu, numbers)| {
            let left = numbers.len().checked_sub(wanted);
            (!is_begun(**gpu), left.is_none(), left.unwrap_or(usize::MAX - numbers.len()), **gpu)
        });
        let Some(gpu) = best.map(|(gpu, _)| *gpu) else { break };
        let numbers = free.remove(&gpu).unwrap_or_default();
        chosen.extend(numbers.into_iter().take(wanted).map(|number| (gpu, number)));
    }
    chosen.into_iter().map(|(gpu, number)| device_id(gpu, number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(slices: &[(u8, u32)]) -> Vec<String> {
        slices.iter().map(|&(gpu, number)| device_id(Uuid::gpu([gpu; 16]), number)).collect()
    }

    #[test]
    fn one_containers_slices_are_packed() {
        let free = ids(&[(1, 0), (1, 1), (1, 2), (2, 5), (2, 6), (3, 0)]);
        // The tightest fit, in order.
        assert_eq!(choose(&free, &[], 1), ids(&[(3, 0)]));
        assert_eq!(choose(&free, &[], 2), ids(&[(2, 5), (2, 6)]));
        assert_eq!(choose(&free, &[], 3), ids(&[(1, 0), (1, 1), (1, 2)]));
        // More than any has: the largest first, then what is left tightly.
        assert_eq!(choose(&free, &[], 4), ids(&[(1, 0), (1, 1), (1, 2), (3, 0)]));
        assert_eq!(choose(&free, &[], 5), ids(&[(1, 0), (1, 1), (1, 2), (2, 5), (2, 6)]));
        // What kubelet insists on decides.
        assert_eq!(choose(&free, &ids(&[(1, 1)]), 2), ids(&[(1, 1), (1, 0)]));
        assert_eq!(choose(&free, &ids(&[(3, 0)]), 2), ids(&[(3, 0), (2, 5)]));
        // Never more than there are, and nothing of another's.
        assert_eq!(choose(&free, &[], 9).len(), 6);
        assert_eq!(choose(&["other".to_owned()], &[], 1), Vec::<String>::new());
        assert_eq!(choose(&[], &[], 0), Vec::<String>::new());
    }

    #[test]
    fn what_is_chosen_is_always_of_what_is_free() {
        let mut random = 7_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for _ in 0..2_000 {
            let all: Vec<String> = (0..3)
                .flat_map(|gpu| (0..6).map(move |number| (gpu, number)))
                .map(|(gpu, number)| device_id(Uuid::gpu([gpu; 16]), number))
                .collect();
            let free: Vec<String> = all.into_iter().filter(|_| next(3) > 0).collect();
            let size = usize::try_from(next(8)).unwrap();
            let required: Vec<String> = free.iter().filter(|_| next(8) == 0).take(size).cloned().collect();
            let chosen = choose(&free, &required, size);
            assert_eq!(chosen.len(), size.min(free.len()));
            assert!(
                required.iter().all(|id| chosen.contains(id)) && chosen.iter().all(|id| free.contains(id))
            );
            let mut once = chosen.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), chosen.len());
        }
    }
}
