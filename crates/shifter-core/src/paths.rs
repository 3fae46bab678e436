//! Where Shifter's files are: fixed when the programs are built, never taken from environment or argv by
//! the setuid program, so that no caller can choose the configuration root acts on.

/// Directory of `udiRoot.conf`, `shifter.conf` and `imagemanager.json`: `SHIFTER_SYSCONFDIR` at build time.
pub const SYSCONFDIR: &str = match option_env!("SHIFTER_SYSCONFDIR") {
    Some(directory) => directory,
    None => "/etc/shifter",
};

/// Node state that does not survive a reboot: locks and prepared containers. Owned by root, mode 0700.
pub const RUN_DIRECTORY: &str = "/run/shifter";

/// The runtime's configuration, shared with the original.
pub const UDIROOT_CONF: &str = "udiRoot.conf";

/// Settings the original does not know (it fails on any key it does not know).
pub const SHIFTER_CONF: &str = "shifter.conf";
