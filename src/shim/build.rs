//! Linker settings of the preloaded library.

fn main() {
    // Its hooks stay in use until the process ends: unloading it would leave dangling pointers everywhere.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libvcuda.so");
    println!("cargo:rerun-if-changed=build.rs");
}
