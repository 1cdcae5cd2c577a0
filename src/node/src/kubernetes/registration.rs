//! How a plugin becomes known to kubelet: a socket that kubelet finds in its registry, and two questions on it.
//!
//! Owns the answers, and what kubelet thought of them.

use tokio::sync::watch::{self, Receiver, Sender};
use tonic::{Request, Response, Status};
use tracing::{error, info};

use super::messages::registration::registration_server::{Registration, RegistrationServer};
use super::messages::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};

/// Whether kubelet knows the plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Registered {
    /// It has not asked yet.
    #[default]
    NotYet,
    /// It does.
    Yes,
    /// It does not want it.
    Refused(String),
}

/// Answers kubelet's questions about a plugin.
#[derive(Debug)]
pub struct Registrar {
    info: PluginInfo,
    registered: Sender<Registered>,
}

impl Registrar {
    /// Tells kubelet of `info`. What comes of it can be watched.
    pub fn new(info: PluginInfo) -> (RegistrationServer<Self>, Receiver<Registered>) {
        let (registered, watched) = watch::channel(Registered::NotYet);
        (RegistrationServer::new(Self { info, registered }), watched)
    }
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = status.into_inner();
        let name = &self.info.name;
        self.registered.send_replace(if plugin_registered {
            info!("kubelet has registered {name}");
            Registered::Yes
        } else {
            error!("kubelet does not register {name}: {}", error.replace(char::is_control, " "));
            Registered::Refused(error)
        });
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
