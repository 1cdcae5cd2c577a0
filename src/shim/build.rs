//! Linker settings of the preloaded library.

fn main() {
    // Its hooks stay in use until the process ends: unloading it would leave dangling pointers everywhere.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libvcuda.so");
    // What it refers to in itself is bound when it is linked, and not looked up in every process that starts.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic");
    println!("cargo:rerun-if-changed=build.rs");
}
