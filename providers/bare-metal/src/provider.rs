//! The provider: the trait, answered from configuration alone.
//!
//! Owns: [`BareMetalProvider`]. Leaves to others: `plan` and `report`, the two that have content.
//! Invariant: no I/O.

use std::convert::Infallible;

use portico_provider::{
    Backends, Capabilities, Desired, Inventory, LoadBalancer, LoadBalancerProvider, Outcome, Owner, Plan,
    ProviderError, ReadMode, Report,
};

use crate::config::Config;
use crate::step::NoStep;

/// Creates nothing: Services are reached by NodePort.
#[derive(Clone, Copy, Debug)]
pub struct BareMetalProvider {
    config: Config,
}

impl BareMetalProvider {
    /// One that answers by `config`.
    pub fn new(config: Config) -> Self {
        Self { config }
    }
}

impl LoadBalancerProvider for BareMetalProvider {
    type Observed = Infallible;
    type Step = NoStep;

    fn name(&self) -> &'static str {
        "bare-metal"
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities::CAPABILITIES
    }

    async fn inventory(&self) -> Result<Inventory<Infallible>, ProviderError> {
        Ok(Inventory::empty())
    }

    async fn observe(
        &self,
        _owner: &Owner,
        _read_mode: ReadMode,
    ) -> Result<Option<Infallible>, ProviderError> {
        Ok(None)
    }

    fn plan(&self, desired: Desired<'_>, _observed: Option<&Infallible>) -> Plan<NoStep> {
        crate::plan::plan(desired)
    }

    fn plan_targets(&self, _backends: &Backends, observed: &Infallible) -> Plan<NoStep> {
        match *observed {}
    }

    async fn execute(&self, step: &NoStep) -> Result<Outcome, ProviderError> {
        match *step {}
    }

    fn report(&self, desired: &LoadBalancer, _observed: Option<&Infallible>) -> Report {
        crate::report::report(self.config, desired)
    }
}
