//! `vcuda-node`: starts the jobs, serves what they find, and ends on SIGTERM.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use vcuda_node::exposition::{Exposition, Sources};
use vcuda_node::idle_release::Status;
use vcuda_node::jobs::Jobs;
use vcuda_node::kubernetes::webhook;
use vcuda_node::manual::Man;
use vcuda_node::options::{Options, Switch};
use vcuda_node::places::Places;
use vcuda_node::watch::Watcher;
use vcuda_node::{devices, faults, idle_release, serve};

/// How long jobs may take to end.
const FAREWELL: Duration = Duration::from_secs(5);

#[derive(Parser)]
#[command(name = "vcuda-node", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    instead: Option<Instead>,
}

// What is done instead of serving. No doc comment: that would be the command's description.
#[derive(Subcommand)]
enum Instead {
    /// Write the manual page
    #[command(hide = true)]
    Man(Man),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.instead {
        Some(Instead::Man(man)) => man.execute(),
        None => serve_as_told(arguments.options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vcuda-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve_as_told(options: Options) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(options.log))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // Where nobody reads the log any more, that is no reason to end.
        .log_internal_errors(false)
        .init();
    if let Some(device) = &options.declare_well {
        options.faults().declare_well(device)?.iter().for_each(|said| println!("{said}"));
        return Ok(());
    }
    vcuda_slices::truncation::survive().context("can't handle bus errors (SIGBUS)")?;
    // Two: what keeps one busy leaves the other. Looks at files and at the driver have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(serve_until_told_to_end(options));
    // A look that hangs in a system call can't be ended, and isn't waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve_until_told_to_end(options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let kubernetes = &options.kubernetes;
    if let (Some(address), Some(certificates)) = (kubernetes.webhook, &kubernetes.webhook_certificates) {
        let (cores, kubeconfig) = (kubernetes.webhook_cores, kubernetes.kubeconfig.as_deref());
        return tokio::select! {
            served = webhook::run(address, certificates, cores, kubeconfig) => served,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
    }
    let listener = serve::listen(options.listen).await?;
    let address = listener.local_addr()?;

    let mut jobs = Jobs::default();
    let (readings_sender, readings) = watch::channel(Arc::default());
    let (devices_sender, devices) = watch::channel(Arc::default());
    let watcher = Arc::new(Mutex::new(Watcher::new(&options)));
    let every = options.interval;
    jobs.start("slices", every * 10 + Duration::from_secs(10), move |pulse| {
        vcuda_node::watch::run(Arc::clone(&watcher), every, readings_sender.clone(), pulse)
    });
    jobs.start("devices", devices::PATIENCE, move |pulse| devices::run(devices_sender.clone(), pulse));

    let setup = options.faults();
    let (faults_sender, faults) = watch::channel(Arc::new(setup.remembered()));
    jobs.start("faults", faults::PATIENCE, move |pulse| {
        faults::run(faults_sender.clone(), setup.clone(), pulse)
    });

    let (status_sender, status) = watch::channel(Status::default());
    vcuda_node::kubernetes::start(&mut jobs, &options, &faults).await?;
    let is_on = options.idle_release == Switch::On;
    if is_on {
        let (places, readings) = (Places::of(&options), readings.clone());
        jobs.start("idle_release", idle_release::LONGEST_TURN * 2, move |pulse| {
            idle_release::run(places.clone(), readings.clone(), status_sender.clone(), pulse)
        });
    }

    let idle_release = is_on.then(|| status.clone());
    let exposition =
        Arc::new(Exposition::new(Sources { readings, devices, faults, idle_release, health: jobs.health() }));
    let server = tokio::spawn(serve::run(listener, exposition, jobs.health(), jobs.shutdown()));
    info!("serving http://{address}/metrics");
    if !address.ip().is_loopback() {
        warn!("everybody who reaches {address} can see all slices; without --listen only this machine can");
    }

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("ending");
    jobs.shutdown().cancel();
    finish_turn(status).await;
    if !jobs.end(FAREWELL).await {
        warn!("a job did not end in {} s; leaving it", FAREWELL.as_secs());
    }
    server.await.context("the server")
}

/// Lets idle release come to the end of what it does, so that no program stays locked.
async fn finish_turn(mut status: watch::Receiver<Status>) {
    let mut is_over = async |patience| {
        // An error says that the job is gone, which is as well.
        tokio::time::timeout(patience, status.wait_for(|status| !status.is_at_work)).await.is_ok()
    };
    if is_over(FAREWELL / 10).await {
        return;
    }
    info!("waiting for a program to be put aside or brought back");
    if !is_over(idle_release::LONGEST_TURN).await {
        warn!("that takes too long; the next agent, or vcuda resume, brings the program back");
    }
}
