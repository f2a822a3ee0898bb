//! Constants that the loader sets before the programs are verified (`.rodata`).

use aya_ebpf::Global;

/// See [`specola_datapath_common::config::HOST_IFINDEX`].
#[unsafe(no_mangle)]
pub(crate) static CFG_HOST_IFINDEX: Global<u32> = Global::new(0);

/// See [`specola_datapath_common::config::HOST_MAC`].
#[unsafe(no_mangle)]
pub(crate) static CFG_HOST_MAC: Global<u64> = Global::new(0);

/// See [`specola_datapath_common::config::TRACE_INTERVAL_MS`].
#[unsafe(no_mangle)]
pub(crate) static CFG_TRACE_INTERVAL_MS: Global<u32> =
    Global::new(specola_datapath_common::config::TRACE_INTERVAL_MS_DEFAULT);

/// See [`specola_datapath_common::config::FOLD_PER_SECOND`].
#[unsafe(no_mangle)]
pub(crate) static CFG_FOLD_PER_SECOND: Global<u32> = Global::new(0);

/// See [`specola_datapath_common::config::HOST_MODE`].
#[unsafe(no_mangle)]
pub(crate) static CFG_HOST_MODE: Global<u32> = Global::new(0);

/// See [`specola_datapath_common::config::DUAL_STACK`].
#[unsafe(no_mangle)]
pub(crate) static CFG_DUAL_STACK: Global<u32> = Global::new(0);
