//! Where the keys of a JSON text are, and whether one object has a key twice.
//!
//! The JSON parser keeps the last of two equal keys without a word and forgets positions; a limits file
//! needs both: which of two limits was meant is not ours to guess. Works on text that already parsed as
//! JSON, and must only not panic on anything else.

/// The keys of a JSON text by their dotted path.
pub struct JsonKeys {
    found: Vec<(String, usize)>,
}

/// A key that its object has twice, and where the second is.
#[derive(Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// Dotted path of the key.
    pub path: String,
    /// Byte offset of the second occurrence.
    pub offset: usize,
}

struct Container {
    is_object: bool,
    /// Dotted path of the container itself; empty at the top.
    path: String,
    /// Dotted path of the member being read.
    member: String,
    /// Whether the next string is a key.
    expects_key: bool,
    keys: Vec<String>,
}

impl JsonKeys {
    /// Lists the keys of `text`.
    pub fn scan(text: &[u8]) -> Result<JsonKeys, Duplicate> {
        let mut found = Vec::new();
        let mut open: Vec<Container> = Vec::new();
        let mut offset = 0;
        while let Some(&byte) = text.get(offset) {
            let start = offset;
            offset += 1;
            match byte {
                b'{' | b'[' => {
                    let path = open.last().map(|parent| parent.member.clone()).unwrap_or_default();
                    let is_object = byte == b'{';
                    let member = path.clone();
                    open.push(Container {
                        is_object,
                        path,
                        member,
                        expects_key: is_object,
                        keys: Vec::new(),
                    });
                }
                b'}' | b']' => drop(open.pop()),
                b',' => {
                    if let Some(container) = open.last_mut() {
                        container.expects_key = container.is_object;
                    }
                }
                b'"' => {
                    offset = string_end(text, offset);
                    let Some(container) = open.last_mut().filter(|container| container.expects_key) else {
                        continue;
                    };
                    container.expects_key = false;
                    let key: String = serde_json::from_slice(text.get(start..offset).unwrap_or_default())
                        .unwrap_or_default();
                    container.member = join(&container.path, &key);
                    if container.keys.contains(&key) {
                        return Err(Duplicate { path: container.member.clone(), offset: start });
                    }
                    found.push((container.member.clone(), start));
                    container.keys.push(key);
                }
                _ => {}
            }
        }
        Ok(JsonKeys { found })
    }

    /// Byte offset of the key with this dotted path.
    pub fn offset(&self, path: &str) -> Option<usize> {
        self.found.iter().find(|(known, _)| known == path).map(|(_, offset)| *offset)
    }
}

/// `path.key`, or just the key at the top.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Line and column, from 1, of a byte offset.
pub fn line_and_column(text: &[u8], offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|&&byte| byte != b'\n').count() + 1;
    (line, column)
}

/// The offset just after the closing quote of the string that starts before `offset`.
fn string_end(text: &[u8], mut offset: usize) -> usize {
    while let Some(&byte) = text.get(offset) {
        offset += if byte == b'\\' { 2 } else { 1 };
        if byte == b'"' {
            break;
        }
    }
    offset.min(text.len())
}
