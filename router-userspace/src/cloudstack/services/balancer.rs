//! What the load balancer should do.

use crate::cloudstack::wire::loadbalancer::{self, LoadBalancer};
use crate::model::Balancer;
use crate::model::balancer::Certificate;

/// The load balancer of a message or of the databag.
pub fn balancer(said: &LoadBalancer) -> Balancer {
    let mut configuration = said.configuration.join("\n");
    configuration.push('\n');
    Balancer { configuration, certificates: said.certificates.iter().map(certificate).collect() }
}

/// In the order in which haproxy wants them.
fn certificate(said: &loadbalancer::Certificate) -> Certificate {
    let parts = [Some(&said.certificate), said.chain.as_ref(), Some(&said.key)];
    let pem = parts.into_iter().flatten().map(|part| format!("{}\n", part.trim_end())).collect();
    Certificate { name: said.name.clone(), pem }
}
