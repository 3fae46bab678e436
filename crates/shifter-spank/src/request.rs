//! What a job wants, as the node's prolog finds it in its environment: text that any user can have made up, read again
//! by the rules of the command line.

use crate::options::join;
use crate::site::Site;
use shifter_core::descriptor::Descriptor;
use shifter_core::image_type::{ImageType, is_image_id};
use shifter_core::volume::{self, VolumeMap};

/// Longest list of volumes or modules, in bytes.
const LONGEST: usize = 64 << 10;
/// Longest public key line, in bytes.
const LONGEST_KEY: usize = 1024;

/// What is prepared for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// An identifier or a directory; never a name to be looked up.
    pub image: Descriptor,
    /// Volumes, as one map list.
    pub volumes: String,
    /// Modules, as one list; none for the site's defaults.
    pub modules: Option<String>,
    /// The job's public key, one line.
    pub key: Option<String>,
    /// Whether the whole job runs inside.
    pub ccm: bool,
}

/// What the job's submission has left, under the names it used.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Request {
    /// Reads the variables of a prolog. None: the job wants no container. `asked` is the option as submitted, which
    /// stands where the submission could not resolve it.
    pub fn read(variable: Lookup<'_>, asked: Option<&str>, site: &Site) -> Result<Option<Self>, String> {
        let found = (variable("SHIFTER_IMAGETYPE"), variable("SHIFTER_IMAGE"));
        let image = match (found, asked) {
            ((Some(kind), Some(tag)), _) => {
                let kind = ImageType::parse(&kind.to_ascii_lowercase())
                    .ok_or_else(|| format!("\"{}\" is no image type", shown(&kind)))?;
                Descriptor::new(kind, &tag).map_err(|error| error.to_string())?
            }
            (_, Some(text)) => Descriptor::parse(text, site.conf.default_image_type)
                .map_err(|error| format!("--image: {error}"))?,
            (_, None) => return Ok(None),
        };
        resolved(&image, site)?;
        let volumes = match variable("SHIFTER_VOLUME").filter(|text| !text.is_empty()) {
            Some(text) => join(&volumes(&text, site)?),
            None => String::new(),
        };
        let modules = variable("SHIFTER_MODULE").map(|text| modules(&text, site)).transpose()?;
        let key = variable("SHIFTER_SSH_PUBKEY").map(|line| key_line(&line)).transpose()?;
        let ccm = variable("SHIFTER_CCM").is_some_and(|flag| flag == "1");
        if ccm && !is_whole_system(&image) {
            return Err("--ccm is for the image local:/ alone".to_owned());
        }
        Ok(Some(Self { image, volumes, modules, key, ccm }))
    }
}

/// Whether `image` is the one of `--ccm`.
pub fn is_whole_system(image: &Descriptor) -> bool {
    image.image_type == ImageType::Local && image.tag == "/"
}

/// Refuses what is not known by identifier or directory, and directories where the site has none of them.
pub fn resolved(image: &Descriptor, site: &Site) -> Result<(), String> {
    match image.image_type {
        ImageType::Id if is_image_id(&image.tag) => Ok(()),
        ImageType::Id => Err(format!("\"{}\" is no image identifier", shown(&image.tag))),
        ImageType::Local if !site.conf.allow_local_chroot => {
            Err("local: images are not allowed here (allowLocalChroot)".to_owned())
        }
        ImageType::Local if !image.tag.starts_with('/') => {
            Err(format!("\"{}\" is no absolute path", shown(&image.tag)))
        }
        ImageType::Local => Ok(()),
        ImageType::Docker | ImageType::Custom => Err(format!(
            "the image {} was not looked up when the job was submitted",
            shown(&image.to_string())
        )),
    }
}

/// Reads a map list by users' rules; of the same target the last is kept.
pub fn volumes(text: &str, site: &Site) -> Result<Vec<VolumeMap>, String> {
    if text.len() > LONGEST {
        return Err(format!("the list of volumes is longer than {LONGEST} bytes"));
    }
    let mut maps = volume::parse_user(text, &site.shifter.volumes).map_err(|error| error.to_string())?;
    if maps.is_empty() {
        return Err("it is empty: write FROM:TO".to_owned());
    }
    let mut kept: Vec<VolumeMap> = Vec::new();
    for map in maps.drain(..) {
        kept.retain(|known| known.to != map.to);
        kept.push(map);
    }
    Ok(kept)
}

/// Reads a list of modules, which must all be there and go together.
pub fn modules(text: &str, site: &Site) -> Result<String, String> {
    if text.len() > LONGEST {
        return Err(format!("the list of modules is longer than {LONGEST} bytes"));
    }
    let active = site.conf.select_modules(Some(text)).map_err(|error| error.to_string())?;
    let names: Vec<&str> = active.iter().map(|module| module.name.as_str()).collect();
    Ok(if names.is_empty() { "none".to_owned() } else { names.join(",") })
}

/// One public key, with at most a comment: what sshd's AUTHORIZED_KEYS FILE FORMAT calls options cannot stand in it.
pub fn key_line(text: &str) -> Result<String, String> {
    let line = text.trim();
    let mut words = line.split(' ');
    let legal = |word: Option<&str>, more: &str| {
        word.is_some_and(|word| {
            !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        })
    };
    let kind = words.next().filter(|kind| kind.starts_with("ssh-") || kind.starts_with("ecdsa-sha2-"));
    let good = line.len() <= LONGEST_KEY
        && legal(kind, "-")
        && legal(words.next(), "+/=")
        && words.next().is_none_or(|comment| legal(Some(comment), "@._-"))
        && words.next().is_none();
    if good { Ok(line.to_owned()) } else { Err("the job's public key is no key".to_owned()) }
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use shifter_core::udiroot::UdiRootConf;

    fn site(more: &str) -> Site {
        let text =
            format!("imagePath=/i\nudiRootPath=/usr\ndefaultImageType=docker\nmodule_m_siteEnv=A=1\n{more}");
        Site { conf: UdiRootConf::parse(&text).unwrap(), ..Site::default() }
    }

    fn read(variables: &[(&str, &str)], asked: Option<&str>, more: &str) -> Result<Option<Request>, String> {
        let find = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Request::read(&find, asked, &site(more))
    }

    #[test]
    fn a_resolved_image_and_what_goes_with_it_are_taken_over() {
        let id = "a".repeat(64);
        let variables = [
            ("SHIFTER_IMAGETYPE", "id"),
            ("SHIFTER_IMAGE", &id),
            ("SHIFTER_VOLUME", "/a:/x;/b:/x:ro"),
            ("SHIFTER_MODULE", "m"),
            ("SHIFTER_SSH_PUBKEY", "ssh-ed25519 AAAA+/= shifter@login\n"),
        ];
        let found = read(&variables, Some("docker:whatever"), "").unwrap().unwrap();
        assert_eq!((found.image.to_string(), found.volumes.as_str()), (format!("id:{id}"), "/b:/x:ro"));
        assert_eq!(found.modules.as_deref(), Some("m"));
        assert_eq!(found.key.as_deref(), Some("ssh-ed25519 AAAA+/= shifter@login"));
        assert_eq!(read(&[], None, ""), Ok(None));
        assert_eq!(read(&[("SHIFTER_VOLUME", "junk")], None, ""), Ok(None), "no image, nothing to do");
    }

    /// Every variable of a prolog is a user's word: none may reach a command line or a file as it is.
    #[test]
    fn st52_made_up_job_data_is_refused() {
        let id = "a".repeat(64);
        let long = format!("/a:/{}", "x".repeat(LONGEST));
        let with = |name: &'static str, value: &str| {
            let all = [("SHIFTER_IMAGETYPE", "id"), ("SHIFTER_IMAGE", id.as_str()), (name, value)];
            let mut all: Vec<(&str, &str)> = all.into();
            all.reverse(); // the last is found first
            read(&all, None, "").unwrap_err()
        };
        for (name, value, expected) in [
            ("SHIFTER_IMAGE", "../../etc", "the character '/'"),
            ("SHIFTER_IMAGE", "..", "\"..\" is no image identifier"),
            ("SHIFTER_IMAGE", "", "the image name is empty"),
            ("SHIFTER_IMAGE", "$(reboot)", "the character '$'"),
            ("SHIFTER_IMAGETYPE", "docker", "was not looked up"),
            ("SHIFTER_IMAGETYPE", "local", "local: images are not allowed here"),
            ("SHIFTER_IMAGETYPE", "vfs\n", "\"vfs\\n\" is no image type"),
            ("SHIFTER_VOLUME", "/a:/etc", "cannot be a target"),
            ("SHIFTER_VOLUME", "/a:/b:rec", "is for siteFs"),
            ("SHIFTER_VOLUME", "/a\nx:/b", "control character"),
            ("SHIFTER_VOLUME", "-V", "not an absolute path"),
            ("SHIFTER_VOLUME", long.as_str(), "longer than"),
            ("SHIFTER_MODULE", "--config=/tmp/x", "Unknown shifter module"),
            ("SHIFTER_MODULE", "$(id)", "Unknown shifter module"),
            ("SHIFTER_SSH_PUBKEY", "ssh-rsa AAAA\nssh-rsa BBBB", "is no key"),
            ("SHIFTER_SSH_PUBKEY", "command=\"id\" ssh-rsa AAAA", "is no key"),
            ("SHIFTER_SSH_PUBKEY", "--job=1", "is no key"),
            ("SHIFTER_SSH_PUBKEY", "", "is no key"),
            ("SHIFTER_CCM", "1", "--ccm is for the image local:/ alone"),
        ] {
            let said = with(name, value);
            assert!(said.contains(expected), "{name}={value:.40}: {said}");
        }
        // The option itself, where the submission had nothing to say.
        for (asked, expected) in [
            ("docker:debian", "the image docker:debian was not looked up when the job was submitted"),
            ("id:1", "\"1\" is no image identifier"),
            ("", "--image: the image name is empty"),
        ] {
            assert!(read(&[], Some(asked), "").unwrap_err().contains(expected), "{asked}");
        }
        let local = [("SHIFTER_IMAGETYPE", "local"), ("SHIFTER_IMAGE", "etc")];
        assert_eq!(read(&local, None, "allowLocalChroot=1").unwrap_err(), "\"etc\" is no absolute path");
    }
}
