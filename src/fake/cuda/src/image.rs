//! Program images: PTX text is searched for its entry functions and for what they are to be simulated as;
//! binary images are taken as they come, with any function in them.
//!
//! In PTX, comments direct the simulation and mean nothing to a real driver:
//!
//! ```text
//! // simulated: spin duration_ns=param0       entry `spin` lasts as long as its first parameter says
//! // simulated: step duration_ns=200000       entry `step` lasts 200 us
//! // simulated: part width=25%                it leaves room for other kernels of the process beside it
//! // simulated: wait until=param0 width=10%   it lasts until the word that the parameter points to isn't 0
//! // simulated: image_bytes=209715200         the image takes 200 MiB of the device
//! ```

use std::collections::HashMap;
use std::ffi::CString;

/// What kernels of unknown length last.
const USUAL_NS: u64 = 10_000;

/// What a module or library is made of.
#[derive(Debug, Default)]
pub struct Image {
    /// Entries by name; in binary images made up as they are asked for.
    pub entries: HashMap<String, Entry>,
    /// Variables by name, with their size.
    pub globals: HashMap<String, u64>,
    /// Whether any name is an entry.
    pub is_binary: bool,
    pub bytes: u64,
}

/// An entry function.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: CString,
    pub parameters: Vec<Parameter>,
    pub duration: Duration,
    /// The hundredths of the GPU's processors that it takes.
    pub percent: u32,
    pub effect: Effect,
}

/// Where a parameter is in a packed block of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub offset: usize,
    pub bytes: usize,
}

/// How long a kernel lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duration {
    Fixed(u64),
    /// As the parameter of this number says, in nanoseconds.
    Parameter(usize),
    /// Until the 32-bit word that the parameter of this number points to isn't 0.
    Until(usize),
}

impl Default for Duration {
    fn default() -> Duration {
        Duration::Fixed(USUAL_NS)
    }
}

/// What a kernel does to memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    #[default]
    None,
    /// `fill_u32(address, value, count)`
    FillU32,
    /// `saxpy_f32(count, factor, x, y)`: y += factor * x
    SaxpyF32,
}

impl Effect {
    fn of(name: &str, parameters: usize) -> Effect {
        match (name, parameters) {
            ("fill_u32", 3) => Effect::FillU32,
            ("saxpy_f32", 4) => Effect::SaxpyF32,
            _ => Effect::None,
        }
    }
}

impl Entry {
    fn new(name: CString) -> Entry {
        let (duration, effect) = (Duration::default(), Effect::None);
        Entry { name, parameters: Vec::new(), duration, percent: 100, effect }
    }

    /// Takes over one attribute of a directive. One that isn't understood changes nothing.
    fn apply(&mut self, attribute: &str) {
        let Some((name, value)) = attribute.split_once('=') else { return };
        let parameter = value.strip_prefix("param").and_then(|number| number.parse().ok());
        let fixed = value.parse().ok().map(Duration::Fixed);
        match name {
            "duration_ns" => self.duration = parameter.map(Duration::Parameter).or(fixed).unwrap_or_default(),
            "until" => self.duration = parameter.map_or(self.duration, Duration::Until),
            "width" => {
                let percent = value.trim_end_matches('%').parse();
                self.percent = percent.map_or(self.percent, |percent: u32| percent.clamp(1, 100));
            }
            _ => {}
        }
    }
}

impl Image {
    /// An image that isn't text.
    pub fn binary(bytes: u64) -> Image {
        Image { is_binary: true, bytes, ..Image::default() }
    }

    /// Reads PTX; `None` if it is none.
    pub fn from_ptx(text: &str) -> Option<Image> {
        if !text.contains(".version") || !text.contains(".target") {
            return None;
        }
        let mut image = Image { bytes: text.len() as u64, ..Image::default() };
        let (code, directives) = without_comments(text);
        let mut rest = code.as_str();
        while let Some((before, after)) = rest.split_once(".entry") {
            read_globals(before, &mut image.globals);
            let Some((entry, after)) = read_entry(after) else { break };
            image.entries.insert(entry.name.to_string_lossy().into_owned(), entry);
            rest = after;
        }
        read_globals(rest, &mut image.globals);
        for directive in directives {
            image.apply(&directive);
        }
        Some(image)
    }

    fn apply(&mut self, directive: &str) {
        let mut words = directive.split_whitespace();
        let Some(first) = words.next() else { return };
        if let Some(bytes) = first.strip_prefix("image_bytes=").and_then(|bytes| bytes.parse().ok()) {
            self.bytes = bytes;
            return;
        }
        let Some(entry) = self.entries.get_mut(first) else { return };
        for word in words {
            entry.apply(word);
        }
    }

    /// Size of all variables.
    pub fn global_bytes(&self) -> u64 {
        self.globals.values().sum()
    }

    /// The entry of a name.
    pub fn entry(&self, name: &str) -> Option<Entry> {
        if self.is_binary {
            return CString::new(name).ok().map(Entry::new);
        }
        self.entries.get(name).cloned()
    }
}

/// The text without comments, and what the comments ask of the simulation.
fn without_comments(text: &str) -> (String, Vec<String>) {
    let (mut code, mut directives) = (String::with_capacity(text.len()), Vec::new());
    let mut rest = text;
    while let Some(start) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        code.push_str(&rest[..start]);
        let comment = &rest[start..];
        let end = if comment.starts_with("//") {
            comment.find('\n').unwrap_or(comment.len())
        } else {
            comment.find("*/").map_or(comment.len(), |end| end + 2)
        };
        if let Some(directive) = comment[..end].trim_start_matches("//").trim().strip_prefix("simulated:") {
            directives.push(directive.trim().to_owned());
        }
        code.push(' ');
        rest = &comment[end..];
    }
    code.push_str(rest);
    (code, directives)
}

/// Reads what follows `.entry`: a name, parameters in parentheses, and the rest.
fn read_entry(text: &str) -> Option<(Entry, &str)> {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '%')))?;
    let (name, rest) = text.split_at(end);
    let (list, rest) = match rest.trim_start().strip_prefix('(') {
        Some(inside) => inside.split_once(')')?,
        None => ("", rest),
    };
    let (mut parameters, mut duration) = (Vec::new(), Duration::default());
    let mut offset: usize = 0;
    for declaration in list.split(',').map(str::trim).filter(|declaration| !declaration.is_empty()) {
        let (bytes, alignment) = size_of_declaration(declaration)?;
        offset = offset.next_multiple_of(alignment);
        if declaration.ends_with("duration_ns") {
            duration = Duration::Parameter(parameters.len());
        }
        parameters.push(Parameter { offset, bytes });
        offset += bytes;
    }
    let effect = Effect::of(name, parameters.len());
    let name = CString::new(name).ok()?;
    Some((Entry { parameters, duration, effect, ..Entry::new(name) }, rest))
}

/// Size and alignment of what a declaration such as `.param .align 8 .b8 name[16]` declares.
fn size_of_declaration(text: &str) -> Option<(usize, usize)> {
    let mut alignment = None;
    let mut element = None;
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            ".align" => {
                let number: usize = words.next()?.parse().ok()?;
                // After `.ptr`, it speaks of what is pointed to.
                alignment = alignment.or(if element.is_none() { Some(number) } else { None });
            }
            ".b8" | ".u8" | ".s8" | ".pred" => element = Some(1),
            ".b16" | ".u16" | ".s16" | ".f16" => element = Some(2),
            ".b32" | ".u32" | ".s32" | ".f32" => element = Some(4),
            ".b64" | ".u64" | ".s64" | ".f64" => element = Some(8),
            ".b128" => element = Some(16),
            _ => {}
        }
    }
    let element: usize = element?;
    let count = match text.split_once('[') {
        Some((_, count)) => count.trim_end_matches([']', ' ', ';']).parse().ok()?,
        None => 1,
    };
    Some((element * count, alignment.unwrap_or(element).max(1)))
}

/// Finds variables in global or constant memory.
fn read_globals(code: &str, globals: &mut HashMap<String, u64>) {
    for statement in code.split([';', '{', '}', '\n']) {
        let declaration = statement.split('=').next().unwrap_or_default().trim();
        let words: Vec<&str> = declaration.split_whitespace().collect();
        if !words.iter().take(3).any(|&word| matches!(word, ".global" | ".const")) {
            continue;
        }
        let Some((bytes, _)) = size_of_declaration(declaration) else { continue };
        let Some(name) = words.last().and_then(|word| word.split('[').next()) else { continue };
        globals.insert(name.to_owned(), bytes as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "\
.version 7.0
.target sm_70
.address_size 64
// simulated: spin duration_ns=param0
// simulated: step duration_ns=200000 width=25%
// simulated: wait until=param1 width=300
// simulated: image_bytes=4194304
.visible .global .align 4 .b8 table[256];
.visible .entry spin(.param .u64 ns) { ret; } /* .entry not_this( */
.visible .entry step() { ret; }
.visible .entry wait(.param .u32 n, .param .u64 address) { ret; }
.visible .entry later(.param .u32 n, .param .u64 .ptr .align 16 duration_ns) { ret; }
.entry fill_u32(
  .param .u64 fill_u32_param_0, // an address
  .param .u32 fill_u32_param_1,
  .param .align 8 .b8 fill_u32_param_2[24]
)
{ ret; }
";

    #[test]
    fn entries_are_found_with_what_they_are_simulated_as() {
        let image = Image::from_ptx(PTX).unwrap();
        assert_eq!(image.entries.len(), 5);
        assert_eq!(image.bytes, 4 << 20);
        assert_eq!(image.globals["table"], 256);
        assert_eq!(image.entries["spin"].duration, Duration::Parameter(0));
        assert_eq!(image.entries["step"].duration, Duration::Fixed(200_000));
        assert_eq!(image.entries["wait"].duration, Duration::Until(1));
        assert_eq!(image.entries["later"].duration, Duration::Parameter(1));
        let percents = ["spin", "step", "wait"].map(|name| image.entries[name].percent);
        assert_eq!(percents, [100, 25, 100]);
        let fill = &image.entries["fill_u32"];
        assert_eq!(fill.effect, Effect::FillU32);
        assert_eq!(fill.duration, Duration::Fixed(USUAL_NS));
        let places: Vec<_> = fill.parameters.iter().map(|place| (place.offset, place.bytes)).collect();
        assert_eq!(places, [(0, 8), (8, 4), (16, 24)]);
        assert!(image.entry("not_this").is_none());
        assert!(Image::from_ptx("garbage").is_none());
        assert!(Image::binary(1).entry("anything").is_some());
    }
}
