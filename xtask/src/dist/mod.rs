//! `cargo xtask dist`: the Debian package and the static tarball, and a try of both.

mod deb;
mod program;
mod stage;
mod tarball;
mod trial;

use crate::process;
use crate::setup::{self, Purpose};
use anyhow::{Context, Result};
use clap::ValueEnum;
use program::Profile;

/// The workspace's version, which is the program's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Make a Debian package and a static tarball in target/dist.
///
/// Both hold the program, the systemd unit, the manual page, completions for bash, zsh and fish, the documentation
/// and the examples.
/// The package's program uses the shared libraries of the Debian release it was built on, which `Depends:` names;
/// the tarball's is linked statically and runs on any Linux with this processor.
/// The same source gives the same names and the same dates; and, with the same compiler and cargo home, a package of
/// the same bytes, wherever the checkout is.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  cargo xtask dist                              both, optimised: some minutes
  cargo xtask dist --only deb --check           the package; then it is installed, run and removed in a root of its own
  cargo xtask dist --only deb --profile dev     the package of an unoptimised build, for trying

To install: dpkg --install target/dist/vxdp_*.deb, or tar -C / --strip-components=1 -xf target/dist/vxdp-*.tar.gz")]
pub(crate) struct Args {
    /// Make only this one
    #[arg(long, value_name = "FORM")]
    only: Option<Form>,
    /// How the program is built
    #[arg(long, default_value = "release")]
    profile: Profile,
    /// Install, run, upgrade and remove the package in a throw-away copy of this system, and run the tarball's program
    /// there (needs root)
    #[arg(long)]
    check: bool,
}

/// What is made.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// The Debian package
    Deb,
    /// The tarball with the static program
    Tarball,
}

/// Runs the command.
pub(crate) fn main(args: &Args) -> Result<()> {
    anyhow::ensure!(
        !(args.check && args.only == Some(Form::Tarball)),
        "--check tries the package, which --only tarball leaves out"
    );
    setup::ensure(&[Purpose::Dist])?;
    let directory = process::target_dir().join("dist");
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let time = source_date()?;
    let mut made = Vec::new();
    if args.only != Some(Form::Tarball) {
        say(&format!("building the package's program ({})", args.profile.name()));
        let program = program::shared(args.profile)?;
        say("packing the Debian package");
        let (package, depends) = deb::build(&program, &directory, &time, args.profile.packing())?;
        made.push((package, format!("depends on {depends}")));
    }
    if args.only != Some(Form::Deb) {
        say(&format!("building the tarball's static program ({})", args.profile.name()));
        let program = program::fixed(args.profile, &directory)?;
        say("packing the tarball");
        made.push((tarball::build(&program, &directory, &time)?, "needs no shared library".to_owned()));
    }
    if args.check {
        say("installing, running and removing it");
        let tarball = made.get(1).map(|(tarball, _)| tarball.as_path());
        print!("{}", trial::run(&made[0].0, tarball, &directory)?);
    }
    for (file, needs) in made {
        let size = std::fs::metadata(&file).with_context(|| file.display().to_string())?.len();
        println!("{} ({:.1} MB): {needs}", file.display(), size as f64 / 1e6);
    }
    Ok(())
}

/// Says what is going on.
fn say(what: &str) {
    eprintln!("dist: {what} …");
}

/// The time that files are dated with, in seconds since 1970: the same source gives the same bytes.
fn source_date() -> Result<String> {
    if let Ok(time) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(time);
    }
    let out = process::output(process::command("git").args(["log", "-1", "--format=%ct"]));
    let out = out.context("without git, set SOURCE_DATE_EPOCH to the source's date in seconds since 1970")?;
    Ok(String::from_utf8(out)?.trim().to_owned())
}
