//! Databases in directories, for who needs several over its life.

use std::path::Path;
use std::sync::Arc;

use tenure_storage::engine::{Engine, EngineError, EngineFactory, EngineSnapshot};

use crate::engine::RocksEngine;
use crate::options::RocksOptions;

/// Opens each with the same options.
#[derive(Clone, Copy, Debug, Default)]
pub struct RocksEngines {
    options: RocksOptions,
}

impl RocksEngines {
    /// With these options.
    pub fn new(options: RocksOptions) -> RocksEngines {
        RocksEngines { options }
    }
}

impl EngineFactory for RocksEngines {
    fn open(&self, dir: &Path) -> Result<Arc<dyn Engine>, EngineError> {
        Ok(Arc::new(RocksEngine::open(dir, &self.options)?))
    }

    fn inspect(&self, dir: &Path) -> Result<Arc<dyn EngineSnapshot>, EngineError> {
        RocksEngine::inspect(dir, &self.options)
    }
}
