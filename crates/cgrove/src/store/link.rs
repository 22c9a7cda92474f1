//! How Redis is reached: one server, the master that sentinels name, or a cluster; plain or TLS.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    Client, ClientTlsConfig, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, RedisResult,
    TlsCertificates, Value,
};

use cgrove_config::{self as config, ClientTls, Sentinels, files};

/// A hung Redis answers nothing; nobody waits longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// A connection; cheap to clone.
#[derive(Clone)]
pub(super) enum Link {
    One(ConnectionManager),
    /// Each key lives on a server of its own, so each command goes alone.
    Cluster(ClusterConnection),
}

impl Link {
    /// Credentials and certificates are read anew, and sentinels asked anew.
    pub(super) async fn new(config: &config::Redis) -> RedisResult<Self> {
        let url = match &config.sentinels {
            Some(sentinels) => master(sentinels).await?,
            None => config.url.clone(),
        };
        let mut info = url.as_str().into_connection_info()?;
        if let Some(secret) = &config.password {
            let password = secret.read()?;
            info = info.clone().set_redis_settings(info.redis_settings().clone().set_password(password));
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let info = info.set_tcp_settings(tcp);
        let certificates = config.tls.as_ref().map(certificates).transpose()?;
        if config.cluster { cluster(info, certificates).await } else { one(info, certificates) }
    }

    /// The answers in order, errors of single commands among them.
    pub(super) async fn run(&mut self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        match self {
            Self::One(manager) => {
                let mut pipe = redis::pipe();
                pipe.ignore_errors();
                for command in commands {
                    pipe.add_command(command.clone());
                }
                pipe.query_async(manager).await
            }
            Self::Cluster(connection) => {
                let mut answers = Vec::with_capacity(commands.len());
                for command in commands {
                    answers.push(command.query_async(connection).await?);
                }
                Ok(answers)
            }
        }
    }
}

fn one(info: ConnectionInfo, certificates: Option<TlsCertificates>) -> RedisResult<Link> {
    let client = match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    // Without retries it fails at once while Redis is away, and the next slot finds it back.
    let settings = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_response_timeout(Some(PATIENCE))
        .set_connection_timeout(Some(PATIENCE));
    ConnectionManager::new_lazy_with_config(client, settings).map(Link::One)
}

async fn cluster(info: ConnectionInfo, certificates: Option<TlsCertificates>) -> RedisResult<Link> {
    let mut builder =
        ClusterClientBuilder::new([info]).retries(1).connection_timeout(PATIENCE).response_timeout(PATIENCE);
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates);
    }
    let connecting = builder.build()?;
    within(connecting.get_async_connection()).await.map(Link::Cluster)
}

/// The master's URL, by the first sentinel that knows it.
async fn master(sentinels: &Sentinels) -> RedisResult<String> {
    let mut trouble = RedisError::from((ErrorKind::InvalidClientConfig, "redis.url names no sentinel"));
    for host in &sentinels.hosts {
        let asked = async {
            let client = Client::open(format!("redis://{host}/"))?;
            let mut connection = within(client.get_multiplexed_async_connection()).await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(&sentinels.master);
            within(question.query_async::<Option<(String, u16)>>(&mut connection)).await
        };
        match asked.await {
            Ok(Some((address, port))) => {
                let address = if address.contains(':') { format!("[{address}]") } else { address };
                return Ok(format!("redis://{}{address}:{port}/{}", sentinels.user_info, sentinels.db));
            }
            Ok(None) => trouble = RedisError::from((ErrorKind::Client, "the sentinels do not know this master")),
            Err(e) => trouble = e,
        }
    }
    Err(trouble)
}

async fn within<T>(operation: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let timed_out = || std::io::Error::from(std::io::ErrorKind::TimedOut).into();
    tokio::time::timeout(PATIENCE, operation).await.unwrap_or_else(|_| Err(timed_out()))
}

fn certificates(tls: &ClientTls) -> std::io::Result<TlsCertificates> {
    let read = |path: &Path| {
        let named = |e: std::io::Error| std::io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        files::read(path, files::CERTIFICATES).map_err(named)
    };
    let identity = |(certificate, key): &(PathBuf, PathBuf)| {
        Ok::<_, std::io::Error>(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
    };
    let client_tls = tls.identity.as_ref().map(identity).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert: Some(read(&tls.ca)?) })
}
