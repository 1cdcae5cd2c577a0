//! Each metric once: its name, what it means, and where its value comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use vcuda_core::device::Uuid;

use super::Sources;
use crate::devices::{self, Devices};
use crate::faults::Known;
use crate::idle_release::{Counts, Status};
use crate::jobs::JobHealth;
use crate::labels::Labels;
use crate::reading::{Reading, Slice};
use crate::{devices::Device as Gpu, reading::Device};

/// A value, or none.
#[derive(Clone, Copy)]
enum Value {
    None,
    Count(u64),
    Real(f64),
}
use Value::{Count, Real};

impl From<Option<u64>> for Value {
    fn from(value: Option<u64>) -> Self {
        value.map_or(Self::None, Count)
    }
}

impl From<Option<f64>> for Value {
    fn from(value: Option<f64>) -> Self {
        value.map_or(Self::None, Real)
    }
}

static BYTES: Unit = Unit::Bytes;
static SECONDS: Unit = Unit::Seconds;

/// One metric of things of a kind.
struct Family<T: ?Sized> {
    /// Without unit and `_total`.
    name: &'static str,
    unit: Option<&'static Unit>,
    kind: MetricType,
    help: &'static str,
    value: fn(&T) -> Value,
}

const fn gauge<T: ?Sized>(name: &'static str, help: &'static str, value: fn(&T) -> Value) -> Family<T> {
    Family { name, unit: None, kind: MetricType::Gauge, help, value }
}

const fn counter<T: ?Sized>(name: &'static str, help: &'static str, value: fn(&T) -> Value) -> Family<T> {
    Family { name, unit: None, kind: MetricType::Counter, help, value }
}

impl<T: ?Sized> Family<T> {
    const fn in_bytes(self) -> Self {
        Self { unit: Some(&BYTES), ..self }
    }

    const fn in_seconds(self) -> Self {
        Self { unit: Some(&SECONDS), ..self }
    }

    /// Writes the metric of all `things`; nothing at all if none has a value.
    fn encode<'a, L: EncodeLabelSet>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        things: impl Iterator<Item = (L, &'a T)>,
    ) -> fmt::Result
    where
        T: 'a,
    {
        let mut valued = things
            .map(|(labels, thing)| (labels, (self.value)(thing)))
            .filter(|(_, value)| !matches!(value, Value::None))
            .peekable();
        if valued.peek().is_none() {
            return Ok(());
        }
        let mut metric = encoder.encode_descriptor(self.name, self.help, self.unit, self.kind)?;
        for (labels, value) in valued {
            self.encode_value(metric.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    /// Writes the metric of the only thing of its kind, without labels; nothing if it has no value.
    fn encode_alone(&self, encoder: &mut DescriptorEncoder<'_>, thing: &T) -> fmt::Result {
        let value = (self.value)(thing);
        if matches!(value, Value::None) {
            return Ok(());
        }
        let metric = encoder.encode_descriptor(self.name, self.help, self.unit, self.kind)?;
        self.encode_value(metric, value)
    }

    fn encode_value(&self, encoder: MetricEncoder<'_>, value: Value) -> fmt::Result {
        match (self.kind, value) {
            (MetricType::Counter, Count(value)) => ConstCounter::new(value).encode(encoder),
            (MetricType::Counter, Real(value)) => ConstCounter::new(value).encode(encoder),
            (_, Count(value)) => ConstGauge::new(value).encode(encoder),
            (_, Real(value)) => ConstGauge::new(value).encode(encoder),
            (_, Value::None) => Ok(()),
        }
    }
}

fn seconds(ns: u64) -> Value {
    Real(ns as f64 / 1e9)
}

fn unix_seconds(at: Option<SystemTime>) -> Value {
    at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs_f64()).into()
}

/// A value of memory's books, which are kept only under a limit.
fn of_memory(it: &Device, value: u64) -> Value {
    if it.limit_bytes.is_some() || it.peak_bytes > 0 { Count(value) } else { Value::None }
}

/// A value of time's books, which are kept only under a share.
fn of_time(it: &Device, value: Value) -> Value {
    if it.share_ratio.is_some() || it.totals.work > 0 { value } else { Value::None }
}

/// By slice and device.
const CONTAINER: [Family<Device>; 11] = [
    gauge("vcuda_container_memory_limit", "GPU memory that the slice may hold.", |it: &Device| {
        it.limit_bytes.into()
    })
    .in_bytes(),
    gauge(
        "vcuda_container_memory_used",
        "GPU memory that the slice holds, contexts included; counted only under a limit.",
        |it: &Device| of_memory(it, it.used_bytes),
    )
    .in_bytes(),
    gauge("vcuda_container_memory_peak", "The most GPU memory that the slice ever held.", |it: &Device| {
        of_memory(it, it.peak_bytes)
    })
    .in_bytes(),
    gauge(
        "vcuda_container_core_limit_ratio",
        "Share of the GPU's time that the slice may use.",
        |it: &Device| it.share_ratio.into(),
    ),
    gauge(
        "vcuda_container_core_utilization_ratio",
        "How much of its share of the GPU's time the slice used in the last ten seconds.",
        |it: &Device| it.utilization_ratio.into(),
    ),
    counter(
        "vcuda_container_allocations_denied",
        "Requests for GPU memory that were refused because of the limit.",
        |it: &Device| of_memory(it, it.totals.denied),
    ),
    counter(
        "vcuda_container_kernel_launches",
        "Launches, graphs, copies and fills; counted only under a share of the GPU's time.",
        |it: &Device| of_time(it, Count(it.totals.work)),
    ),
    counter(
        "vcuda_container_busy",
        "Time that the GPU worked for the slice; measured only under a share of its time.",
        |it: &Device| of_time(it, seconds(it.totals.busy_ns)),
    )
    .in_seconds(),
    counter(
        "vcuda_container_throttled",
        "Time that calls were held back because of the share, summed over threads.",
        |it: &Device| of_time(it, seconds(it.totals.throttled_ns)),
    )
    .in_seconds(),
    gauge(
        "vcuda_container_last_kernel_timestamp",
        "When the agent last saw that something was launched; counted only under a share of the GPU's time.",
        |it: &Device| unix_seconds(it.last_work),
    )
    .in_seconds(),
    gauge(
        "vcuda_container_processes",
        "Living processes that hold or used something of the GPU.",
        |it: &Device| Count(it.processes),
    ),
];

/// What the slices with living processes were promised of one GPU.
#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    bytes: u64,
    ratio: f64,
    shares: u64,
}

/// By GPU, of what slices were promised.
const PROMISED: [Family<Promised>; 3] = [
    gauge(
        "vcuda_device_memory_allocated",
        "Sum of the memory limits of slices in which a process lives.",
        |it: &Promised| Count(it.bytes),
    )
    .in_bytes(),
    gauge(
        "vcuda_device_core_allocated_ratio",
        "Sum of the shares of GPU time of slices in which a process lives.",
        |it: &Promised| Real(it.ratio),
    ),
    gauge("vcuda_device_shares", "Slices in which a process lives.", |it: &Promised| Count(it.shares)),
];

/// By GPU, of what the driver says.
const DEVICE: [Family<Gpu>; 4] = [
    gauge("vcuda_device_memory_total", "The GPU's memory.", |it: &Gpu| it.total_bytes.into()).in_bytes(),
    gauge(
        "vcuda_device_memory_used",
        "The GPU's memory in use by anybody, by the driver's account.",
        |it: &Gpu| it.used_bytes.into(),
    )
    .in_bytes(),
    gauge(
        "vcuda_device_utilization_ratio",
        "In how much of the driver's last sampling period anything ran on the GPU.",
        |it: &Gpu| it.utilization_ratio.into(),
    ),
    gauge(
        "vcuda_device_foreign_processes",
        "Processes on the GPU without vcuda: beside them, shares of its time are best effort.",
        |it: &Gpu| it.foreign_processes.into(),
    ),
];

/// By GPU, of what it answers and of its faults.
const HEALTHY: Family<bool> = gauge(
    "vcuda_device_healthy",
    "1 if the GPU answers and neither it nor a part of it has a fault, else 0.",
    |it| Count(u64::from(*it)),
);

/// By GPU and XID.
const XIDS: Family<u64> = counter(
    "vcuda_node_xids",
    "Errors (XIDs) that the driver told of since the agent began, also those that are programs' own doing.",
    |it| Count(*it),
);

const WATCHED: Family<Known> = gauge(
    "vcuda_node_watched_gpus",
    "GPUs of whose faults the driver tells the agent; absent where there is no driver.",
    |it: &Known| it.watched.into(),
);

/// Of the agent's looks at the slices.
const NODE: [Family<Reading>; 7] = [
    gauge("vcuda_node_slices", "Slices read at the last look.", |it: &Reading| Count(it.slices.len() as u64)),
    gauge(
        "vcuda_node_left_out",
        "Files and directories beyond what is read at one look; at least that many.",
        |it: &Reading| Count(it.left_out),
    ),
    gauge("vcuda_node_last_look_timestamp", "When the last look at all slices ended.", |it: &Reading| {
        unix_seconds(it.at)
    })
    .in_seconds(),
    gauge("vcuda_node_look_duration", "How long the last look took.", |it: &Reading| {
        Real(it.took.as_secs_f64())
    })
    .in_seconds(),
    counter(
        "vcuda_node_reaped_processes",
        "Ended processes whose places in their slices were taken back.",
        |it: &Reading| Count(it.cleaned.processes),
    ),
    counter("vcuda_node_reaped", "GPU memory given back to slices for ended processes.", |it: &Reading| {
        Count(it.cleaned.bytes)
    })
    .in_bytes(),
    counter("vcuda_node_removed_files", "Control files of ended runs that were removed.", |it: &Reading| {
        Count(it.cleaned.files)
    }),
];

const AWAY: [Family<Slice>; 2] = [
    gauge(
        "vcuda_container_put_aside_processes",
        "Processes that are put aside because they were idle.",
        |it: &Slice| Count(it.put_aside),
    ),
    gauge(
        "vcuda_container_waiting_processes",
        "Processes that wait for memory which others have, to allocate it or to come back.",
        |it: &Slice| Count(it.waiting),
    ),
];

/// Of idle release, by slice.
const MOVES: [Family<Counts>; 2] = [
    counter(
        "vcuda_node_put_aside",
        "How often a process of the slice was put aside since the agent began.",
        |it: &Counts| Count(it.put_aside),
    ),
    counter(
        "vcuda_node_brought_back",
        "How often a process of the slice that was put aside came back since the agent began.",
        |it: &Counts| Count(it.brought_back),
    ),
];

/// Of idle release as a whole.
const IDLE_RELEASE: [Family<Status>; 3] = [
    gauge(
        "vcuda_node_idle_release_possible",
        "1 if idle programs can be put aside here, 0 if not; absent until a slice wants that.",
        |it: &Status| it.is_possible.map(u64::from).into(),
    ),
    counter(
        "vcuda_node_idle_release_denied",
        "Allocations for which no room could be made.",
        |it: &Status| Count(it.denied),
    ),
    counter(
        "vcuda_node_idle_release_failures",
        "Attempts to put a process aside or to bring it back that did not work.",
        |it: &Status| Count(it.failures),
    ),
];

const UNREADABLE: Family<u64> =
    gauge("vcuda_node_unreadable_files", "Control files that could not be read at the last look.", |it| {
        Count(*it)
    });

const DIRECTORY: Family<bool> =
    gauge("vcuda_node_directory_readable", "1 if the directory could be looked into, else 0.", |it| {
        Count(u64::from(*it))
    });

const JOB: [Family<JobHealth>; 2] = [
    gauge("vcuda_node_job_healthy", "1 if the agent's job shows signs of life, else 0.", |it: &JobHealth| {
        Count(u64::from(it.complaint.is_none()))
    }),
    counter(
        "vcuda_node_job_failures",
        "How often the agent's job failed and began again.",
        |it: &JobHealth| Count(it.failures),
    ),
];

const BUILD: Family<()> =
    gauge("vcuda_build_info", "Always 1; version and revision of the agent.", |()| Count(1));

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A copy of the pointer only, so that nobody waits for the text.
        let reading = std::sync::Arc::clone(&self.readings.borrow());
        let devices = std::sync::Arc::clone(&self.devices.borrow());
        let encoder = &mut encoder;

        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("revision", option_env!("VCUDA_REVISION").unwrap_or("unknown")),
        ];
        BUILD.encode(encoder, [(build, &())].into_iter())?;
        for family in &CONTAINER {
            family.encode(encoder, slice_devices(&reading.slices))?;
        }
        let promised = promised(&reading, &devices);
        for family in &PROMISED {
            family.encode(encoder, promised.iter().map(|(uuid, it)| (of_device(uuid), it)))?;
        }
        for family in &DEVICE {
            family.encode(encoder, devices.iter().map(|(uuid, it)| (of_device(uuid), it)))?;
        }
        self.encode_faults(encoder, &devices)?;
        if reading.at.is_some() {
            for family in &NODE {
                family.encode_alone(encoder, &reading)?;
            }
        }
        self.encode_idle_release(encoder, &reading)?;
        let unreadable = reading.unreadable.iter().map(|(reason, count)| ([("reason", *reason)], count));
        UNREADABLE.encode(encoder, unreadable)?;
        let directories =
            reading.directories.iter().map(|(path, it)| ([("directory", path.to_string_lossy())], it));
        DIRECTORY.encode(encoder, directories)?;
        let jobs = self.health.jobs();
        for family in &JOB {
            family.encode(encoder, jobs.iter().map(|it| ([("task", it.name)], it)))?;
        }
        Ok(())
    }
}

impl Sources {
    fn encode_faults(&self, encoder: &mut DescriptorEncoder<'_>, devices: &Devices) -> fmt::Result {
        let known = std::sync::Arc::clone(&self.faults.borrow());
        let is_well = |uuid: &str| uuid.parse().map_or(true, |gpu: Uuid| known.faults.is_well(gpu));
        let healthy: Vec<(&String, bool)> =
            devices.iter().map(|(uuid, it)| (uuid, it.answers && is_well(uuid))).collect();
        HEALTHY.encode(encoder, healthy.iter().map(|(uuid, it)| (of_device(uuid), it)))?;
        let counts: Vec<([(&str, String); 2], u64)> = known
            .counts
            .iter()
            .flat_map(|(gpu, counts)| counts.iter().map(|(xid, count)| (*gpu, *xid, *count)))
            .map(|(gpu, xid, count)| ([("device_uuid", gpu.to_string()), ("xid", xid.to_string())], count))
            .collect();
        XIDS.encode(encoder, counts.iter().map(|(labels, count)| (labels.clone(), count)))?;
        WATCHED.encode_alone(encoder, &known)
    }

    fn encode_idle_release(&self, encoder: &mut DescriptorEncoder<'_>, reading: &Reading) -> fmt::Result {
        for family in &AWAY {
            family.encode(encoder, reading.slices.iter().map(|slice| (of_slice(&slice.labels), slice)))?;
        }
        let Some(status) = &self.idle_release else { return Ok(()) };
        let status = status.borrow().clone();
        for family in &MOVES {
            let counted = reading
                .slices
                .iter()
                .filter_map(|slice| Some((of_slice(&slice.labels), status.slices.get(&slice.path)?)));
            family.encode(encoder, counted)?;
        }
        for family in &IDLE_RELEASE {
            family.encode_alone(encoder, &status)?;
        }
        Ok(())
    }
}

fn of_slice(labels: &Labels) -> [(&'static str, &str); 4] {
    [
        ("namespace", labels.namespace.as_str()),
        ("pod", labels.pod.as_str()),
        ("container", labels.container.as_str()),
        ("share", labels.share.as_str()),
    ]
}

fn of_device(uuid: &str) -> [(&'static str, &str); 1] {
    [("device_uuid", uuid)]
}

fn slice_devices(slices: &[Slice]) -> impl Iterator<Item = ([(&'static str, &str); 5], &Device)> {
    slices.iter().flat_map(|slice| {
        let labels = &slice.labels;
        slice.devices.iter().map(|device| {
            let labels = [
                ("namespace", labels.namespace.as_str()),
                ("pod", labels.pod.as_str()),
                ("container", labels.container.as_str()),
                ("device_uuid", device.uuid.as_str()),
                ("share", labels.share.as_str()),
            ];
            (labels, device)
        })
    })
}

/// What slices in use were promised of each GPU; also of those that no slice uses.
fn promised<'a>(reading: &'a Reading, devices: &'a Devices) -> BTreeMap<&'a str, Promised> {
    let of_gpus = |(uuid, _): (&'a String, &devices::Device)| (uuid.as_str(), Promised::default());
    let mut promised: BTreeMap<&str, Promised> = devices.iter().map(of_gpus).collect();
    let used = reading.slices.iter().filter(|slice| slice.processes > 0).flat_map(|slice| &slice.devices);
    for device in used {
        let sum = promised.entry(&device.uuid).or_default();
        sum.bytes = sum.bytes.saturating_add(device.limit_bytes.unwrap_or(0));
        sum.ratio += device.share_ratio.unwrap_or(0.0);
        sum.shares += 1;
    }
    promised
}
