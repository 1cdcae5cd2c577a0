//! Compiles the messages that kubelet and its plugins exchange, without any program of protobuf's.
use std::error::Error;

const FILES: [&str; 5] =
    ["pluginregistration.proto", "dra.proto", "drahealth.proto", "deviceplugin.proto", "podresources.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure().btree_map(".").compile_fds(files)?;
    Ok(())
}
