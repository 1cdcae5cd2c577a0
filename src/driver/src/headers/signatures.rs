//! Every generated signature against the function type that a C++ compiler reads from the headers.

use super::{headers, output_of};
use std::any::type_name;
use std::fmt::Write as _;

/// C++ that prints of each function the shape of every argument and of the result: for a number, handle or
/// struct its size in bytes; for a pointer `*` or, to something constant, `&`, then the shape of what is
/// there, or nothing where that is `void`, a struct or a function.
const SHAPES: &str = r#"
#include <cstdio>
#include <type_traits>
template <class T> void shape() {
    using V = typename std::remove_cv<T>::type;
    if constexpr (std::is_pointer<V>::value) {
        using P = typename std::remove_pointer<V>::type;
        using B = typename std::remove_cv<P>::type;
        printf(std::is_const<P>::value ? "&" : "*");
        if constexpr (std::is_arithmetic<B>::value || std::is_enum<B>::value || std::is_pointer<B>::value) shape<B>();
    } else {
        printf("%zu", sizeof(V));
    }
}
template <class R, class... A> void function(const char *name, R (*)(A...)) { // only the type of the pointer matters
    printf("%s", name);
    ((printf(" "), shape<A>()), ...);
    printf(" -> ");
    shape<R>();
    printf("\n");
}
"#;

/// The same of a Rust type, given its name and size.
///
/// Handles are numbers here and pointers to incomplete structs there, so [`same`] takes a word for either.
fn shape(name: &str, bytes: usize) -> String {
    if let Some(inner) = name.strip_prefix("*mut ") {
        return format!("*{}", pointee(inner));
    }
    if let Some(inner) = name.strip_prefix("*const ") {
        return format!("&{}", pointee(inner));
    }
    bytes.to_string()
}

fn pointee(name: &str) -> String {
    match name {
        "u8" | "i8" => "1".to_string(),
        "u16" | "i16" => "2".to_string(),
        "u32" | "i32" | "f32" => "4".to_string(),
        "u64" | "i64" | "usize" | "f64" => "8".to_string(),
        _ if name.starts_with('*') => shape(name, 0),
        _ => String::new(),
    }
}

/// Whether a shape from here and one from C++ agree. A pointee that is nothing here is a struct, handle or
/// `void`; nothing there is a struct, `void` or function.
fn same(ours: &str, theirs: &str) -> bool {
    match (ours.strip_prefix(['*', '&']), theirs.strip_prefix(['*', '&'])) {
        (Some(our_rest), Some(their_rest)) if ours.as_bytes()[0] == theirs.as_bytes()[0] => {
            our_rest.is_empty() || same(our_rest, their_rest)
        }
        // A handle, or a function pointer.
        (None, Some(_)) => ours == "8",
        _ => ours == theirs,
    }
}

macro_rules! describe {
    ({} fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty) => {
        (
            stringify!($name),
            vec![$(shape(type_name::<$type>(), size_of::<$type>())),*],
            shape(type_name::<$result>(), size_of::<$result>()),
        )
    };
}

type Described = (&'static str, Vec<String>, String);

fn compare(name: &str, preamble: &str, functions: &[Described]) {
    let Some(folder) = headers() else { return };
    let mut text = format!("{preamble}{SHAPES}int main() {{\n");
    for (name, ..) in functions {
        writeln!(text, "    function(\"{name}\", (decltype(&{name}))nullptr);").unwrap();
    }
    text.push_str("}\n");
    let output = output_of(folder, name, &text);
    let theirs: Vec<&str> = output.lines().collect();
    assert_eq!(theirs.len(), functions.len());
    let mut differences = Vec::new();
    for ((name, arguments, result), line) in functions.iter().zip(theirs) {
        let mut words: Vec<&str> = line.split(' ').filter(|&word| word != "->").collect();
        assert_eq!(words.remove(0), *name);
        let ours: Vec<&String> = arguments.iter().chain([result]).collect();
        if words.len() != ours.len() || !ours.iter().zip(&words).all(|(ours, theirs)| same(ours, theirs)) {
            differences.push(format!("{name}: {ours:?} here, {words:?} in C"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn driver_signatures_are_those_of_the_headers() {
    macro_rules! all {
        ($($name:ident)*) => { [$(crate::cuda_signature! { $name, describe, {} }),*] };
    }
    let functions = crate::cuda_functions! { all };
    compare(
        "cuda.cc",
        "#define __CUDA_API_VERSION_INTERNAL\n#include <cuda.h>\n#include <cudaGL.h>\n#include <cudaEGL.h>\n\
         #include <vdpau/vdpau.h>\n#include <cudaVDPAU.h>\n#include <cudaProfiler.h>\n",
        &functions,
    );
}

#[test]
fn management_signatures_are_those_of_the_headers() {
    macro_rules! all {
        ($($name:ident)*) => { [$(crate::nvml_signature! { $name, describe, {} }),*] };
    }
    let functions = crate::nvml_functions! { all };
    compare("nvml.cc", "#define NVML_NO_UNVERSIONED_FUNC_DEFS\n#include <nvml.h>\n", &functions);
}

#[test]
fn shapes_that_differ_are_told_apart() {
    assert!(same("*8", "*8") && same("*", "*8") && same("8", "*") && same("&", "&"));
    assert!(!same("4", "8") && !same("*4", "*8") && !same("*", "&") && !same("4", "*") && !same("*", "8"));
    assert!(!same("**", "*&") && same("*&", "*&"));
}
