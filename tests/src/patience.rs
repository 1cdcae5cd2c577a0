//! Judging what programs get done on a machine that may do other things beside them.
//!
//! A machine that is busy takes time from a program, again and again not the same, while a limit that is not kept is not
//! kept every time. Must never repeat what a busy machine can't be the reason for.

/// How often something is measured, at most.
const TIMES: u32 = 5;

/// Measures, and again for as long as it is `excusable` by a busy machine, five times at most; the last of them.
pub fn measured_again_while<T: std::fmt::Debug>(
    excusable: impl Fn(&T) -> bool,
    mut measure: impl FnMut() -> T,
) -> T {
    let mut found = measure();
    for _ in 1..TIMES {
        if !excusable(&found) {
            break;
        }
        println!("measured {found:.2?}; once more");
        found = measure();
    }
    found
}
