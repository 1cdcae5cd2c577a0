//! Limits as the text of a limits file, changing them, and rewriting a file that programs are watching.
//!
//! Must never leave a moment in which a reader takes a mixture of old and new for the limits: a file that is mounted by
//! itself into a container stays the same file only if it is written in place, where a reader may come at any time.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::error::quoted;
use super::{Amount, Entry, Limits, LimitsError, Selector, shares};
use crate::share::Share;
use crate::sharing::{Priority, Weight};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

impl Limits {
    /// The text of a limits file that says the same. A control file whose name is not UTF-8 can't be said.
    pub fn to_text(&self) -> String {
        let mut members = vec!["\"version\": 1".to_owned()];
        if let Some(path) = &self.control_file {
            members.push(format!("\"control_file\": {}", string(&path.to_string_lossy())));
        }
        if let Some(path) = &self.arbiter_file {
            members.push(format!("\"arbiter_file\": {}", string(&path.to_string_lossy())));
        }
        if let Some(after) = self.idle_release {
            members.push(format!("\"idle_release\": \"{}ms\"", after.as_millis()));
        }
        let mut selectors: Vec<&Selector> = Vec::new();
        add_selectors(&mut selectors, &self.memory);
        add_selectors(&mut selectors, &self.cores);
        add_selectors(&mut selectors, &self.elastic);
        add_selectors(&mut selectors, &self.weights);
        add_selectors(&mut selectors, &self.priorities);
        if selectors.contains(&&Selector::Every) {
            members.push(format!("\"default\": {}", self.object(&Selector::Every)));
        }
        selectors.retain(|selector| **selector != Selector::Every);
        let devices = selectors.iter().map(|selector| {
            let key = match selector {
                Selector::Index(index) => index.to_string(),
                other => other.to_string(),
            };
            format!("\n    {}: {}", string(&key), self.object(selector))
        });
        let devices: Vec<String> = devices.collect();
        if !devices.is_empty() {
            members.push(format!("\"devices\": {{{} }}", devices.join(",")));
        }
        format!("{{ {} }}\n", members.join(",\n  "))
    }

    /// What is said of the GPUs that `selector` names.
    fn object(&self, selector: &Selector) -> String {
        let members = [
            member(&self.memory, selector, |memory| format!("\"memory\": \"{memory}\"")),
            member(&self.cores, selector, |cores| {
                format!("\"cores\": {}", cores.to_string().trim_end_matches(" %"))
            }),
            member(&self.elastic, selector, |elastic| format!("\"elastic\": {elastic}")),
            member(&self.weights, selector, |weight| format!("\"weight\": {weight}")),
            member(&self.priorities, selector, |priority| format!("\"priority\": \"{priority}\"")),
        ];
        format!("{{ {} }}", members.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }

    /// Puts the limits that `change` has in the place of these, kind by kind: what it says of every GPU in the place of
    /// all, what it says of single GPUs beside what is said of others. Of a share's file, every GPU is the share's.
    ///
    /// # Errors
    /// If a GPU is named by its number here and by its UUID there: which of them are the same can't be told without
    /// the GPUs. If a share would be of another GPU.
    pub fn change(&mut self, change: &Limits) -> Result<(), LimitsError> {
        let gpu = shares::gpu_by_control_file(self);
        self.memory = changed(&self.memory, &narrowed(&change.memory, gpu.as_ref()))?;
        self.cores = changed(&self.cores, &narrowed(&change.cores, gpu.as_ref()))?;
        self.elastic = changed(&self.elastic, &narrowed(&change.elastic, gpu.as_ref()))?;
        self.weights = changed(&self.weights, &narrowed(&change.weights, gpu.as_ref()))?;
        self.priorities = changed(&self.priorities, &narrowed(&change.priorities, gpu.as_ref()))?;
        match gpu {
            Some(gpu) if shares::gpu_by_control_file(self).as_ref() != Some(&gpu) => Err(LimitsError::new(
                &gpu.to_string(),
                "is the only GPU of this share",
                "leave the GPU away, or make a share of the other one",
            )),
            _ => Ok(()),
        }
    }

    /// Removes all memory limits. A share's file still says which GPU it is of.
    pub fn remove_memory(&mut self) {
        let gpu = shares::gpu_by_control_file(self);
        self.memory.clear();
        if let Some(selector) = gpu.filter(|_| self.cores.is_empty()) {
            self.cores.push(Entry { selector, value: Share::WHOLE, place: String::new() });
        }
    }

    /// Names the control file, an absolute path.
    pub fn set_control_file(&mut self, path: PathBuf) {
        self.control_file = Some(path);
    }

    /// The control file that the limits count in, if they name one.
    pub fn names(&self, control_file: &Path) -> bool {
        self.control_file.as_deref() == Some(control_file)
    }

    /// `4GiB of every GPU, 50% of GPU 1`; `none`.
    pub fn memory_text(&self) -> String {
        listed(&self.memory, Amount::to_string)
    }

    /// As [`Limits::memory_text`], of GPU time.
    pub fn cores_text(&self) -> String {
        listed(&self.cores, Share::to_string)
    }

    /// As [`Limits::memory_text`], of whether the share is elastic.
    pub fn elastic_text(&self) -> String {
        listed(&self.elastic, bool::to_string)
    }

    /// As [`Limits::memory_text`], of weights.
    pub fn weight_text(&self) -> String {
        listed(&self.weights, Weight::to_string)
    }

    /// As [`Limits::memory_text`], of priorities.
    pub fn priority_text(&self) -> String {
        listed(&self.priorities, Priority::to_string)
    }
}

fn add_selectors<'e, T>(selectors: &mut Vec<&'e Selector>, entries: &'e [Entry<T>]) {
    for entry in entries {
        if !selectors.contains(&&entry.selector) {
            selectors.push(&entry.selector);
        }
    }
}

/// What is said of the GPUs that `selector` names, as a member of an object.
fn member<T>(entries: &[Entry<T>], selector: &Selector, text: impl Fn(&T) -> String) -> Option<String> {
    entries.iter().find(|entry| entry.selector == *selector).map(|entry| text(&entry.value))
}

fn listed<T>(entries: &[Entry<T>], text: impl Fn(&T) -> String) -> String {
    let listed: Vec<String> =
        entries.iter().map(|entry| format!("{} of {}", text(&entry.value), entry.selector)).collect();
    if listed.is_empty() { "none".to_owned() } else { listed.join(", ") }
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `entries`, of which those of every GPU are of `gpu`, if that is one.
fn narrowed<T: Clone>(entries: &[Entry<T>], gpu: Option<&Selector>) -> Vec<Entry<T>> {
    let selector = |entry: &Entry<T>| match (&entry.selector, gpu) {
        (Selector::Every, Some(gpu)) => gpu.clone(),
        (other, _) => other.clone(),
    };
    entries.iter().map(|entry| Entry { selector: selector(entry), ..entry.clone() }).collect()
}

fn changed<T: Clone>(old: &[Entry<T>], new: &[Entry<T>]) -> Result<Vec<Entry<T>>, LimitsError> {
    if new.iter().any(|entry| entry.selector == Selector::Every) {
        return Ok(new.to_vec());
    }
    let mut all = old.to_vec();
    for entry in new {
        if let Some(other) = all.iter().find(|other| is_otherwise_named(&other.selector, &entry.selector)) {
            return Err(LimitsError::new(
                &entry.place,
                format!("{} may be the same as {}", quoted(&entry.selector.to_string()), other.selector),
                format!("name GPUs as the limits file does: {}", other.selector),
            ));
        }
        match all.iter_mut().find(|other| is_same(&other.selector, &entry.selector)) {
            Some(other) => other.value = entry.value.clone(),
            None => all.push(entry.clone()),
        }
    }
    Ok(all)
}

/// Whether one names a GPU by its number and the other by its UUID.
fn is_otherwise_named(one: &Selector, other: &Selector) -> bool {
    use Selector::{Index, Uuid};
    matches!((one, other), (Index(_), Uuid(_)) | (Uuid(_), Index(_)))
}

/// Whether both name the same GPU: of a UUID the start will do.
fn is_same(one: &Selector, other: &Selector) -> bool {
    match (one, other) {
        (Selector::Uuid(one), Selector::Uuid(other)) => one.starts_with(other) || other.starts_with(one),
        _ => one == other,
    }
}

/// Puts `text`, which must begin with a brace, in the place of what the open limits file says. The caller keeps other
/// writers away. If it can't be written, what was there is put back as far as that is possible.
///
/// A reader sees the old text, nothing, a text without its first character, or the new text, and of these only the
/// first and the last are limits: the old text is taken away at once, so that no reader finds one half of it, and the
/// brace comes last of all. Some file systems (tmpfs) combine the old length with the new text, which is no limits either:
/// it lacks its last brace or has zeros behind it.
///
/// # Errors
/// The system's.
pub fn rewrite(file: &File, text: &[u8]) -> io::Result<()> {
    let mut before = vec![0; usize::try_from(file.metadata()?.len()).unwrap_or(0)];
    file.read_exact_at(&mut before, 0)?;
    let written = write_over(file, text);
    if written.is_err() {
        let _ = write_over(file, &before);
    }
    written
}

fn write_over(file: &File, text: &[u8]) -> io::Result<()> {
    let (first, rest) = text.split_at(1.min(text.len()));
    file.set_len(0)?;
    file.write_all_at(rest, 1)?;
    file.write_all_at(first, 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::limits::{Overrides, Source, parse_file, read_file};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn limits(memory: Option<&str>, cores: Option<&str>) -> Limits {
        let named = |text| ("--limit", text);
        let overrides =
            Overrides { memory: memory.map(named), cores: cores.map(named), ..Overrides::default() };
        Limits::from_overrides(&overrides, &|_| None).unwrap()
    }

    fn parsed(text: &str) -> Limits {
        parse_file(Path::new("/limits.json"), Source::SystemFile, text.as_bytes()).unwrap()
    }

    #[test]
    fn the_text_of_a_file_says_the_same() {
        for (memory, cores) in [
            (Some("4GiB"), None),
            (None, Some("12.5")),
            (Some("4GiB"), Some("100")),
            (Some("0=4GiB,1=50%,GPU-8932f937=33.333333%"), Some("0=0.0001,3=99.9999")),
        ] {
            let mut limits = limits(memory, cores);
            limits.set_control_file("/run/a \"b\"/ctl".into());
            let read = parsed(&limits.to_text());
            assert_eq!(read.to_text(), limits.to_text());
            assert!(read.names(Path::new("/run/a \"b\"/ctl")));
            let same = |a: &Limits, b: &Limits| {
                (a.memory_text(), a.cores_text()) == (b.memory_text(), b.cores_text())
            };
            assert!(same(&read, &limits), "{}", limits.to_text());
        }
        let text = limits(Some("4GiB"), Some("0=30,1=12.5")).to_text();
        assert_eq!(
            text,
            "{ \"version\": 1,\n  \"default\": { \"memory\": \"4GiB\" },\n  \"devices\": {\n    \"0\": { \"cores\": 30 },\n    \
             \"1\": { \"cores\": 12.5 } } }\n"
        );
        assert_eq!(limits(None, None).to_text(), "{ \"version\": 1 }\n");
    }

    #[test]
    fn sharing_is_written_and_changed_as_the_rest() {
        let shared = |elastic, weight, priority| {
            let overrides = Overrides {
                elastic: Some(("--elastic", elastic)),
                weight: Some(("--weight", weight)),
                priority: Some(("--priority", priority)),
                ..Overrides::default()
            };
            Limits::from_overrides(&overrides, &|_| None).unwrap()
        };
        let texts = |limits: &Limits| [limits.elastic_text(), limits.weight_text(), limits.priority_text()];
        let mut all = shared("true", "0=30,GPU-8932f937=60", "high");
        assert_eq!(
            all.to_text(),
            "{ \"version\": 1,\n  \"default\": { \"elastic\": true, \"priority\": \"high\" },\n  \"devices\": {\n    \"0\": \
             { \"weight\": 30 },\n    \"GPU-8932f937\": { \"weight\": 60 } } }\n"
        );
        assert_eq!(texts(&parsed(&all.to_text())), texts(&all));
        all.change(&limits(Some("4GiB"), Some("50"))).unwrap();
        assert_eq!(
            texts(&all),
            ["true of every GPU", "30 of GPU 0, 60 of GPU-8932f937", "high of every GPU"]
        );
        all.change(&shared("0=false", "7", "normal")).unwrap();
        assert_eq!(
            texts(&all),
            ["true of every GPU, false of GPU 0", "7 of every GPU", "normal of every GPU"]
        );
        assert_eq!(all.memory_text(), "4GiB of every GPU");
        assert_eq!(texts(&parsed(&all.to_text())), texts(&all));
        let error = all.change(&shared("GPU-8932f937=true", "7", "normal")).unwrap_err();
        assert!(
            error.to_string().starts_with("--elastic: \"GPU-8932f937\" may be the same as GPU 0; "),
            "{error}"
        );
    }

    #[test]
    fn changes_replace_what_they_name_and_leave_the_rest() {
        let after = |before: &str, change: &str| {
            let mut all = limits(Some(before), Some("30"));
            all.change(&limits(Some(change), None)).map(|()| (all.memory_text(), all.cores_text()))
        };
        let memory = |before, change| after(before, change).unwrap().0;
        assert_eq!(after("4GiB", "6GiB").unwrap(), ("6GiB of every GPU".into(), "30 % of every GPU".into()));
        assert_eq!(memory("4GiB", "0=6GiB"), "4GiB of every GPU, 6GiB of GPU 0");
        assert_eq!(memory("0=4GiB,1=5GiB", "1=6GiB,2=7GiB"), "4GiB of GPU 0, 6GiB of GPU 1, 7GiB of GPU 2");
        assert_eq!(memory("0=4GiB,1=5GiB", "6GiB"), "6GiB of every GPU", "every GPU is every GPU");
        assert_eq!(memory("GPU-8932f937=4GiB", "GPU-8932=6GiB"), "6GiB of GPU-8932f937");
        let error = after("GPU-8932f937=4GiB", "0=6GiB").unwrap_err().to_string();
        assert_eq!(
            error,
            "--limit: \"GPU 0\" may be the same as GPU-8932f937; name GPUs as the limits file does: GPU-8932f937"
        );
    }

    #[test]
    fn a_share_stays_one_of_its_gpu() {
        const GPU: &str = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6";
        let share = || {
            let mut share = limits(Some(&format!("{GPU}=4GiB")), None);
            share.set_control_file("/run/vcuda/shares/half/control".into());
            share
        };
        let mut changed = share();
        changed.change(&limits(Some("6GiB"), Some("30"))).unwrap();
        assert_eq!(changed.memory_text(), format!("6GiB of {GPU}"));
        assert_eq!(changed.cores_text(), format!("30 % of {GPU}"));
        changed.remove_memory();
        assert_eq!(
            (changed.memory_text().as_str(), changed.cores_text()),
            ("none", format!("30 % of {GPU}"))
        );
        let mut freed = share();
        freed.remove_memory();
        assert_eq!(freed.cores_text(), format!("100 % of {GPU}"));
        for other in ["GPU-11=6GiB", "0=6GiB"] {
            share().change(&limits(Some(other), None)).unwrap_err();
        }
    }

    #[test]
    fn no_reader_takes_a_mixture_of_old_and_new() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        // Half of one and half of the other would be limits too, and of nobody's asking: 86GiB.
        let texts = ["16GiB", "8GiB"].map(|memory| limits(Some(memory), Some("30")).to_text());
        std::fs::write(&path, &texts[0]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let reader = || {
                let mut whole = 0;
                while !done.load(Ordering::Relaxed) {
                    let found = read_file(&path).unwrap().unwrap();
                    let is_limits = parse_file(&path, Source::SystemFile, &found).is_ok();
                    // Of a length that was the other text's, a line's end may be missing.
                    let is_whole =
                        texts.iter().any(|text| text.trim_end().as_bytes() == found.trim_ascii_end());
                    assert_eq!(is_limits, is_whole, "{:?}", String::from_utf8_lossy(&found));
                    whole += u32::from(is_whole);
                }
                whole
            };
            let readers = [threads.spawn(reader), threads.spawn(reader)];
            for text in texts.iter().cycle().take(20_000) {
                rewrite(&file, text.as_bytes()).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            done.store(true, Ordering::Relaxed);
            assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
        });
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("limits.json");
        std::fs::write(&path, "{ \"version\": 1 }").unwrap();
        let read_only = File::open(&path).unwrap();
        assert!(rewrite(&read_only, b"{}").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{ \"version\": 1 }");
    }
}
