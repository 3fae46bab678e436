//! The arguments behind the plugin's name in `plugstack.conf`, in the original's spelling. Unknown ones are ignored, as
//! in the original, but reported.

/// What the site has asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `shifter_config=`: another `udiRoot.conf`.
    pub config: Option<String>,
    /// `extern_setup=`: a program run in the extern step, after the prolog.
    pub extern_setup: Option<String>,
    /// `extern_cgroup=`: move sshd into the extern step.
    pub extern_cgroup: bool,
    /// `memory_cgroup=`: where the memory controller, or a cgroup v2 tree of the site's, is.
    pub memory_cgroup: Option<String>,
    /// `enable_ccm=`: offer `--ccm`.
    pub enable_ccm: bool,
    /// `enable_sshd=`: make a key at submission and start sshd on exclusive nodes.
    pub enable_sshd: bool,
    /// `shared_jobs=`: prepare containers for jobs that share their nodes, too.
    pub shared_jobs: bool,
    /// `long_options`: `--shifter.image` in place of `--image`.
    pub long_options: bool,
    /// What cannot be used, in words.
    pub complaints: Vec<String>,
}

impl Arguments {
    /// Reads them; whatever cannot be used is left at its default, with a complaint.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut arguments = Arguments::default();
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            // The original compares this one name by case, and the others not.
            if name == "shifter_config" {
                arguments.config = arguments.path(name, value);
                continue;
            }
            match name.to_ascii_lowercase().as_str() {
                "extern_setup" => arguments.extern_setup = arguments.path(name, value),
                "memory_cgroup" => arguments.memory_cgroup = arguments.path(name, value),
                "extern_cgroup" => arguments.extern_cgroup = arguments.flag(name, value),
                "enable_ccm" => arguments.enable_ccm = arguments.flag(name, value),
                "enable_sshd" => arguments.enable_sshd = arguments.flag(name, value),
                "shared_jobs" => arguments.shared_jobs = arguments.flag(name, value),
                "long_options" if value.is_empty() => arguments.long_options = true,
                _ => arguments.complain(format!("the argument {} is not known", word.escape_debug())),
            }
        }
        if arguments.enable_ccm && !arguments.enable_sshd {
            arguments.enable_ccm = false;
            arguments.complain("enable_ccm=1 needs enable_sshd=1: --ccm is not offered".to_owned());
        }
        arguments
    }

    fn path(&mut self, name: &str, value: &str) -> Option<String> {
        let good = value.starts_with('/');
        if !good {
            self.complain(format!("{name}= needs an absolute path, not \"{}\"", value.escape_debug()));
        }
        good.then(|| value.to_owned())
    }

    fn flag(&mut self, name: &str, value: &str) -> bool {
        if !matches!(value, "0" | "1") {
            self.complain(format!("{name}= is 0 or 1, not \"{}\"", value.escape_debug()));
        }
        value == "1"
    }

    fn complain(&mut self, text: String) {
        self.complaints.push(format!("plugstack.conf: {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_is_read_and_what_cannot_be_used_is_named() {
        let all = [
            "shifter_config=/etc/s.conf",
            "EXTERN_SETUP=/bin/x",
            "extern_cgroup=1",
            "memory_cgroup=/sys/fs/cgroup/memory",
            "enable_sshd=1",
            "enable_ccm=1",
            "shared_jobs=1",
            "long_options",
        ];
        let read = Arguments::parse(all);
        let expected = Arguments {
            config: Some("/etc/s.conf".to_owned()),
            extern_setup: Some("/bin/x".to_owned()),
            extern_cgroup: true,
            memory_cgroup: Some("/sys/fs/cgroup/memory".to_owned()),
            enable_ccm: true,
            enable_sshd: true,
            shared_jobs: true,
            long_options: true,
            complaints: Vec::new(),
        };
        assert_eq!(read, expected);
        for (word, complaint) in [
            ("Shifter_Config=/x", "the argument Shifter_Config=/x is not known"),
            ("shifter_config=x", "shifter_config= needs an absolute path, not \"x\""),
            ("enable_sshd=yes", "enable_sshd= is 0 or 1, not \"yes\""),
            ("enable_ccm=1", "enable_ccm=1 needs enable_sshd=1: --ccm is not offered"),
            ("long_options=1", "the argument long_options=1 is not known"),
        ] {
            let read = Arguments::parse([word]);
            assert_eq!(read.complaints, [format!("plugstack.conf: {complaint}")], "{word}");
            assert_eq!(Arguments { complaints: Vec::new(), ..read }, Arguments::default(), "{word}");
        }
    }
}
