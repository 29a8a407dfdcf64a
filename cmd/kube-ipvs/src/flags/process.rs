//! Flags that are no part of the configuration.

use std::path::PathBuf;

use clap::{
    ArgAction, Args,
    builder::{OsStringValueParser, TypedValueParser},
};
use proxy_config::go;

/// Flags that are no part of the configuration.
#[derive(Clone, Debug, Args)]
pub struct ProcessFlags {
    /// File with a KubeProxyConfiguration, a KubeIpvsConfiguration, or both. With the former, flags of kube-proxy that
    /// have a field there are ignored, except --hostname-override and the flags of the log; flags that only kube-ipvs has
    /// override the file. Changes to the file take effect without a restart
    #[arg(long, global = true, value_parser = any_path(), value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Writes the configuration in effect to a file, and exits
    #[arg(long, value_parser = any_path(), value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,

    /// The same as the command cleanup
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub cleanup: bool,

    /// Loads modules, sets the kernel parameters and the IPVS timeouts, and exits: that may need more privileges than the
    /// process has later
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", action = ArgAction::Set, value_parser = go::boolean)]
    pub init_only: bool,

    /// Prints the version; raw prints the number alone
    #[arg(short = 'V', long, num_args = 0..=1, require_equals = true, default_value = "false",
          default_missing_value = "true", value_name = "BOOL|raw", value_parser = VersionRequest::parse)]
    pub version: VersionRequest,
}

/// Value of `--version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionRequest {
    /// The version is not asked for.
    No,
    /// A line for people.
    Line,
    /// The number alone.
    Raw,
}

impl VersionRequest {
    fn parse(text: &str) -> Result<Self, String> {
        match go::boolean(text) {
            Ok(true) => Ok(VersionRequest::Line),
            Ok(false) => Ok(VersionRequest::No),
            Err(_) if text == "raw" => Ok(VersionRequest::Raw),
            Err(_) => Err(format!("unknown value {text:?}: expected true, false or raw")),
        }
    }
}

/// Parser of a path that may be empty, which counts as none.
fn any_path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}
