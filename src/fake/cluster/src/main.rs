//! Serves a simulated API server for programs in other languages, and says where: usage `vcuda-fake-cluster DIR`. A file
//! `kubeconfig` in DIR leads there; `/fake/faults` takes `{"request": "GET /api", "status": 500}`.
#![forbid(unsafe_code)]

use std::path::Path;
use vcuda_fake_cluster::{Cluster, write_kubeconfig};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: vcuda-fake-cluster DIR");
        std::process::exit(2);
    };
    let address = Cluster::default().serve(([127, 0, 0, 1], 0).into()).await;
    write_kubeconfig(Path::new(&directory), address)?;
    println!("http://{address}");
    std::future::pending().await
}
