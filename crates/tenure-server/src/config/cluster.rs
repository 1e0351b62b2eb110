//! `--initial-cluster`: who founds the cluster, under which ids.
//!
//! The text is parsed at every start, but whether it makes sense is asked only of a member that has no data yet: one
//! that has takes the members from its own state, and its flags may be years out of date. etcd draws the same line.

use std::collections::{BTreeMap, BTreeSet};

use tenure_core::{ClusterId, MemberId};

use super::error::ConfigError;
use super::urls::{self, Url, UrlError};
use super::{ClusterState, ServerConfig, identity};

/// More founding members than this is a mistake: every write waits for a majority of them.
const MEMBERS_MAX: usize = 64;

/// A founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its id.
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Its peer URLs, sorted.
    pub peer_urls: Vec<Url>,
}

/// The cluster that the flags describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialCluster {
    /// The cluster's id.
    pub cluster_id: ClusterId,
    /// This member's id.
    pub member_id: MemberId,
    /// All members, this one included, by rising id.
    pub members: Vec<InitialMember>,
}

/// What flags say of a cluster.
pub(super) struct Described<'a> {
    /// This member's name.
    pub(super) name: &'a str,
    /// The members' peer URLs by name.
    pub(super) members: &'a BTreeMap<String, Vec<Url>>,
    /// This member's URLs as it advertises them, if they have to be those that the others know it by.
    pub(super) advertised: Option<&'a [Url]>,
    /// Part of the ids.
    pub(super) token: &'a str,
}

impl InitialCluster {
    /// Checks what a server's flags say of the cluster and derives all ids. For a member without data only.
    pub(super) fn from_config(config: &ServerConfig) -> Result<Self, ConfigError> {
        let is_new = config.initial_cluster_state == ClusterState::New;
        InitialCluster::described(&Described {
            name: &config.name,
            members: &config.initial_cluster,
            advertised: is_new.then_some(&config.initial_advertise_peer_urls),
            token: &config.initial_cluster_token,
        })
    }

    /// The same of what was taken from flags already.
    pub(super) fn described(cluster: &Described<'_>) -> Result<Self, ConfigError> {
        let own = cluster.members.get(cluster.name).ok_or_else(|| {
            ConfigError::Conflict(format!(
                "couldn't find local name \"{}\" in the initial cluster configuration; \
                 set --name to one of the names in --initial-cluster ({}), or add it there",
                cluster.name,
                cluster.members.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            ))
        })?;
        if let Some(advertised) = cluster.advertised {
            check_own_urls(cluster.name, advertised, own)?;
        }
        check_duplicate_urls(cluster.members)?;
        let mut members: Vec<InitialMember> = cluster
            .members
            .iter()
            .map(|(name, peer_urls)| InitialMember {
                id: identity::member_id(peer_urls, cluster.token),
                name: name.clone(),
                peer_urls: peer_urls.clone(),
            })
            .collect();
        members.sort_by_key(|member| member.id);
        let ids: Vec<MemberId> = members.iter().map(|member| member.id).collect();
        let cluster_id = identity::cluster_id(&ids);
        // Chances are 2^-64 each, but 0 stands for "no member" and equal ids would make two members one.
        if ids.first() == Some(&MemberId(0)) || ids.windows(2).any(|pair| pair[0] == pair[1]) || cluster_id.0 == 0 {
            return Err(ConfigError::Conflict(
                "the ids of these members collide; set another --initial-cluster-token on all of them".to_owned(),
            ));
        }
        let member_id = identity::member_id(own, cluster.token);
        Ok(InitialCluster { cluster_id, member_id, members })
    }
}

/// Parses `name=url,name=url,…`; a name may come several times, with a URL each.
pub(super) fn parse(text: &str) -> Result<BTreeMap<String, Vec<Url>>, UrlError> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let Some((name, url)) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
            return Err(UrlError(format!("expected name=url, separated by commas: {pair}")));
        };
        members.entry(name.trim().to_owned()).or_default().push(urls::no_socket(Url::parse)(url)?);
    }
    if members.len() > MEMBERS_MAX {
        return Err(UrlError(format!("more than {MEMBERS_MAX} members")));
    }
    for urls in members.values_mut() {
        if urls.len() > urls::URLS_PER_FLAG_MAX {
            return Err(UrlError(format!("more than {} URLs for one member", urls::URLS_PER_FLAG_MAX)));
        }
        urls.sort();
    }
    Ok(members)
}

/// This member must be known to the others by the URLs that it advertises.
fn check_own_urls(name: &str, advertised: &[Url], own: &[Url]) -> Result<(), ConfigError> {
    let missing = |from: &[Url], of: &[Url]| -> Option<Url> {
        of.iter().find(|url| !from.iter().any(|other| other.canonical() == url.canonical())).cloned()
    };
    let advice = "the two must name the same URLs for this member";
    if let Some(url) = missing(advertised, own) {
        let list = urls::join(advertised);
        let text = format!(
            "--initial-cluster has {name}={url} but missing from --initial-advertise-peer-urls={list}; {advice}"
        );
        return Err(ConfigError::Conflict(text));
    }
    if let Some(url) = missing(own, advertised) {
        let list = own.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(",");
        let text =
            format!("--initial-advertise-peer-urls has {url} but missing from --initial-cluster={list}; {advice}");
        return Err(ConfigError::Conflict(text));
    }
    Ok(())
}

fn check_duplicate_urls(members: &BTreeMap<String, Vec<Url>>) -> Result<(), ConfigError> {
    let mut seen = BTreeSet::new();
    for url in members.values().flatten() {
        if !seen.insert(url.canonical()) {
            return Err(ConfigError::Conflict(format!(
                "initial cluster has duplicate url {url}; give every member in --initial-cluster its own URLs"
            )));
        }
    }
    Ok(())
}
