//! Gives the library the name that programs ask the loader for.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libnvidia-ml.so.1");
    // As in the real one, its own references to its functions are never interposed.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
