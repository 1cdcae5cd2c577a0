//! What a row of the symbol tables says. The rows themselves are generated, one per ABI symbol.

/// Which stream a call works on when the program names none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamMode {
    /// The null stream: the one that the whole context shares.
    Legacy,
    /// The calling thread's own default stream (`_ptsz` and `_ptds` symbols).
    PerThread,
}

/// What the preloaded library does with a symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Defined by the library: the call is accounted for, answered or limited.
    Hook,
    /// Left to the driver: it neither takes device memory nor launches work nor tells of either.
    Pass,
    /// Left to the driver, but of interest: reported where the library says what it saw.
    Watch,
    /// Defined by the library in order to refuse the call.
    Deny,
}

/// One ABI symbol of the driver or of the management library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The exported name, for example `cuMemcpyHtoD_v2_ptds`.
    pub name: &'static str,
    /// The name without ABI version and stream variant, for example `cuMemcpyHtoD`.
    pub base: &'static str,
    /// First CUDA version with this ABI, as `1000 * major + 10 * minor`; 0 where the headers don't say.
    pub since: u32,
    /// The default stream the symbol works on; `Legacy` also where streams play no part.
    pub stream: StreamMode,
    /// What the preloaded library does with it.
    pub class: Class,
}

/// A row as the generated tables write it.
pub(crate) const fn row(
    name: &'static str,
    base: &'static str,
    since: u32,
    stream: StreamMode,
    class: Class,
) -> Symbol {
    Symbol { name, base, since, stream, class }
}

/// The row of the ABI symbol `name` in a table sorted by name.
pub(crate) fn find(table: &'static [Symbol], name: &str) -> Option<&'static Symbol> {
    let position = table.binary_search_by(|symbol| symbol.name.cmp(name)).ok()?;
    table.get(position)
}
