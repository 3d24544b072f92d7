//! The first writing: where no table stands, the first Services do not wait for a read of the kernel.

use portico_proxy_core::flows;

use super::{Sync, SyncError};

impl Sync {
    /// Once the first Services are known: writes them where nothing exists, else begins to read. Then signals
    /// the watches to list all.
    pub(super) fn begin(&mut self) -> Result<(), SyncError> {
        let Some(signal) = self.first_programmed.take_if(|_| self.missing_first.is_empty()) else {
            return Ok(());
        };
        let written = if self.missing.is_empty() { Ok(()) } else { self.write_first() };
        // Nobody waits any more when the process is about to end.
        signal.send_replace(true);
        written
    }

    /// Writes the first Services into empty tables. The first sync reads them back like everything else.
    fn write_first(&mut self) -> Result<(), SyncError> {
        let result = self.dataplane.call(|dataplane| {
            let absent = dataplane.is_absent()?;
            if absent { dataplane.read().map(Some) } else { Ok(None) }
        });
        let observed = match result {
            Ok(Some(observed)) => observed,
            Ok(None) => {
                self.dataplane.read_ahead();
                return Ok(());
            }
            Err(error) => return self.fail(error),
        };
        self.model.adopt(&observed.state);
        let transaction = self.model.shadow().additive();
        let services = self.model.services();
        match self.dataplane.apply(&transaction) {
            Ok(applied) => {
                tracing::info!(services, %applied, "programmed the first Services");
                // Nothing stood before, so no packet is on its way to an endpoint.
                let now = self.now();
                self.cleaner.left(flows::frontends(&self.model), now);
                self.cleaner.ripen(now);
                self.cleaner.start(&self.model, now);
                Ok(())
            }
            Err(error) => self.fail(error),
        }
    }
}
