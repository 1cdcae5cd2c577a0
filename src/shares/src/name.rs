//! What a share may be called.
//!
//! The name is a file's and a directory's, a CDI device's, and what a person types; so it is what all four allow, and
//! nothing that reads as a path, a process id or another kind of file.

/// The longest name. Claims are named by a UUID of 36 characters and what tells their parts apart.
pub const MOST_CHARACTERS: usize = 128;

/// What would be right, for errors.
pub const USABLE: &str = "write letters, digits, dots, dashes and underscores, beginning with a letter and ending with a letter or digit, at \
     most 128 of them, such as trainer-2";

/// Whether a share may be called so.
pub fn is_usable(name: &str) -> bool {
    let is_good = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    name.len() <= MOST_CHARACTERS
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.ends_with(|last: char| last.is_ascii_alphanumeric())
        && name.chars().all(is_good)
        && !name.ends_with(".json")
        && name != "control"
}

#[cfg(test)]
mod tests {
    use super::is_usable;

    #[test]
    fn names_are_files_devices_and_words() {
        let longest = "x".repeat(128);
        for name in ["half", "claim-0f1e-2", "A_b.c", "t", "x.jsonl", &longest] {
            assert!(is_usable(name), "{name}");
        }
        let longer = "x".repeat(129);
        for name in
            ["", "17", "-m", ".hidden", "a/b", "a b", "ä", "x.json", "control", "half-", "a.", "a:b", &longer]
        {
            assert!(!is_usable(name), "{name}");
        }
    }
}
