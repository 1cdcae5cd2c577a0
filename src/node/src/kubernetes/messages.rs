//! Messages and services between kubelet and its plugins, generated from the files in `proto`.
#![allow(missing_docs, clippy::all, reason = "generated")]

/// How kubelet comes to know a plugin.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// Dynamic resource allocation.
pub mod dra {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// The health of devices given by dynamic resource allocation.
pub mod dra_health {
    tonic::include_proto!("v1alpha1");
}

/// Device plugins.
pub mod device_plugin {
    tonic::include_proto!("v1beta1");
}

/// Which pods have which devices.
pub mod pod_resources {
    tonic::include_proto!("v1");
}
