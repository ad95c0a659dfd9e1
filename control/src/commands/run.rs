//! `vxdp run`: checks, builds, and stays.

use std::path::Path;

use anyhow::Context;

use crate::capability;
use crate::cli::RunArgs;
use crate::config::{self, Config, Engine, Loaded, Mode};
use crate::daemon::{self, IfRunning};
use crate::netns::Netns;
use crate::preflight;

/// Runs the daemon until a signal or `vxdp down` ends it.
///
/// # Errors
/// What is wrong with the configuration or the host, and what the kernel refused.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let loaded = load(&args.config.file, args.mode, args.engine)?;
    capability::give_up_the_rest().context("while giving up the capabilities that are not needed")?;
    let host = Netns::current().context("while opening the host's network namespace")?;
    // One thread for the kernel's notifications while the other one works.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (file, mode, engine) = (args.config.file.clone(), args.mode, args.engine);
    let reload =
        move || load(&file, mode, engine).map(|loaded| loaded.config).map_err(|error| format!("{error:#}"));
    runtime.block_on(async {
        preflight::check(&loaded, &host).await?;
        let if_running = if args.takeover { IfRunning::TakeOver } else { IfRunning::Refuse };
        daemon::run(host, loaded.config, if_running, Box::new(reload)).await?;
        Ok(())
    })
}

fn load(file: &Path, mode: Option<Mode>, engine: Option<Engine>) -> anyhow::Result<Loaded> {
    let mut loaded = config::load(file)?;
    if let Some(mode) = mode {
        choose(&mut loaded.config, mode);
    }
    if let Some(engine) = engine {
        choose_engine(&mut loaded.config, engine);
    }
    Ok(loaded)
}

/// The command line wins over the file, also over what the file says of single overlays.
fn choose(config: &mut Config, mode: Mode) {
    config.dataplane.mode = mode;
    for overlay in &mut config.overlays {
        overlay.mode = None;
    }
}

/// As [`choose`].
fn choose_engine(config: &mut Config, engine: Engine) {
    config.dataplane.engine = engine;
    for overlay in &mut config.overlays {
        overlay.engine = None;
    }
}
