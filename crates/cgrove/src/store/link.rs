//! How Redis is reached: one server, the master that sentinels name, or a cluster; plain or TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cgrove_config::{self as config, ClientTls, Sentinels, files};
use futures_util::{StreamExt, stream};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::{ClusterConnection, Connect};
use redis::{
    Arg, AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, Pipeline, RedisError, RedisFuture, RedisResult, TlsCertificates, Value,
};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio_rustls::rustls::pki_types::ServerName;

use super::limited::{LARGEST, Limited, Meter, SMALL};
use crate::client_tls;

/// A hung Redis answers nothing; nobody waits longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// A cluster is several servers, each asked several things before the first question.
const REACH_ALL: Duration = Duration::from_secs(8);
/// Commands under way at once in a cluster, where a pipeline would have to stay with one server.
const AT_ONCE: usize = 16;
/// The same for values, each of which may be large.
const VALUES_AT_ONCE: usize = 4;

/// A connection; cheap to clone.
#[derive(Clone)]
pub(super) enum Link {
    One(One),
    /// With the library's own TLS, for the authorities that the host believes: nothing bounds an answer but time.
    Library(ConnectionManager),
    /// Each key lives on a server of its own, so each command goes alone.
    Cluster(ClusterConnection<One>),
    /// Nothing bounds an answer but time.
    ClusterOverTls(ClusterConnection),
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
        if config.cluster {
            return cluster(info, config.tls.as_ref().map(certificates).transpose()?).await;
        }
        match within(One::open(&info, config.tls.as_ref())).await? {
            Some(one) => Ok(Self::One(one)),
            None => library(info, config.tls.as_ref().map(certificates).transpose()?),
        }
    }

    /// The answers in order, errors of single commands among them. Together they may have `most` bytes.
    pub(super) async fn run(&mut self, commands: &[Cmd], most: usize) -> RedisResult<Vec<Value>> {
        match self {
            Self::Cluster(connection) => each(connection, commands).await,
            Self::ClusterOverTls(connection) => each(connection, commands).await,
            _ => self.run_on_one(commands, most).await,
        }
    }

    /// The same for commands on one and the same key, which are done in this order.
    pub(super) async fn run_on_one(&mut self, commands: &[Cmd], most: usize) -> RedisResult<Vec<Value>> {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for command in commands {
            pipe.add_command(command.clone());
        }
        match self {
            Self::One(one) => {
                let _asked = one.meter.ask(most);
                pipe.query_async(&mut one.connection).await
            }
            Self::Library(manager) => pipe.query_async(manager).await,
            Self::Cluster(connection) => pipe.query_async(connection).await,
            Self::ClusterOverTls(connection) => pipe.query_async(connection).await,
        }
    }
}

/// Some at once: each waits for a server of its own.
async fn each<C>(connection: &C, commands: &[Cmd]) -> RedisResult<Vec<Value>>
where
    C: ConnectionLike + Clone + Send + Sync,
{
    let alone = |command: &Cmd| {
        let (command, mut connection) = (command.clone(), connection.clone());
        async move { command.query_async(&mut connection).await }
    };
    let at_once = if commands.first().is_some_and(is_for_a_value) { VALUES_AT_ONCE } else { AT_ONCE };
    let answers = stream::iter(commands.iter().map(alone).collect::<Vec<_>>()).buffered(at_once);
    let answers: Vec<RedisResult<Value>> = answers.collect().await;
    answers.into_iter().collect()
}

fn is_for_a_value(command: &Cmd) -> bool {
    matches!(command.args_iter().next(), Some(Arg::Simple(b"GET")))
}

/// One server, over a connection that takes no more than was asked for.
#[derive(Clone)]
pub(super) struct One {
    connection: MultiplexedConnection,
    meter: Arc<Meter>,
    _driver: Arc<Driver>,
}

/// Ends with the last of those who ask.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl One {
    /// `None` where only the client library knows whom to believe.
    async fn open(info: &ConnectionInfo, tls: Option<&ClientTls>) -> RedisResult<Option<Self>> {
        Ok(Some(match info.addr() {
            ConnectionAddr::Unix(path) => Self::over(info, UnixStream::connect(path).await?).await?,
            ConnectionAddr::Tcp(host, port) => Self::over(info, tcp(host, *port).await?).await?,
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                let Some(tls) = tls else { return Ok(None) };
                let bad =
                    |what: &'static str, why: String| RedisError::from((ErrorKind::InvalidClientConfig, what, why));
                let connector = client_tls::connector("redis", tls).map_err(|why| bad("TLS", why))?;
                let name = ServerName::try_from(host.clone()).map_err(|e| bad("TLS", e.to_string()))?;
                Self::over(info, connector.connect(name, tcp(host, *port).await?).await?).await?
            }
            _ => return Ok(None),
        }))
    }

    async fn over(info: &ConnectionInfo, stream: impl client_tls::Stream + 'static) -> RedisResult<Self> {
        let meter = Arc::<Meter>::default();
        let stream = Limited { stream, meter: meter.clone() };
        let settings = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let opened = MultiplexedConnection::new_with_config(info.redis_settings(), stream, settings).await;
        let (connection, driver) = opened?;
        let driver = Arc::new(Driver(tokio::spawn(driver).abort_handle()));
        Ok(Self { connection, meter, _driver: driver })
    }
}

/// What the cluster's client asks of one of its servers.
impl ConnectionLike for One {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        let asked = self.meter.ask(if is_for_a_value(command) { LARGEST } else { SMALL });
        let answer = self.connection.req_packed_command(command);
        Box::pin(async move {
            let answer = answer.await;
            drop(asked);
            answer
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let asked = self.meter.ask(SMALL);
        let answers = self.connection.req_packed_commands(pipeline, offset, count);
        Box::pin(async move {
            let answers = answers.await;
            drop(asked);
            answers
        })
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}

impl Connect for One {
    fn connect_with_config<'a, T>(info: T, _: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        Box::pin(async move {
            let opened = within(Self::open(&info.into_connection_info()?, None)).await?;
            opened.ok_or_else(|| (ErrorKind::InvalidClientConfig, "a server of the cluster wants TLS").into())
        })
    }
}

async fn tcp(host: &str, port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn library(info: ConnectionInfo, certificates: Option<TlsCertificates>) -> RedisResult<Link> {
    let client = match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    // Without retries it fails at once while Redis is away, and the next slot finds it back.
    let settings = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_response_timeout(Some(PATIENCE))
        .set_connection_timeout(Some(PATIENCE));
    ConnectionManager::new_lazy_with_config(client, settings).map(Link::Library)
}

async fn cluster(info: ConnectionInfo, certificates: Option<TlsCertificates>) -> RedisResult<Link> {
    let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let mut builder =
        ClusterClientBuilder::new([info]).retries(1).connection_timeout(PATIENCE).response_timeout(PATIENCE);
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates);
    }
    let connecting = builder.build()?;
    match tls {
        true => within_time(REACH_ALL, connecting.get_async_connection()).await.map(Link::ClusterOverTls),
        false => within_time(REACH_ALL, connecting.get_async_generic_connection::<One>()).await.map(Link::Cluster),
    }
}

/// The master's URL, by the first sentinel that knows it.
async fn master(sentinels: &Sentinels) -> RedisResult<String> {
    let mut trouble = RedisError::from((ErrorKind::InvalidClientConfig, "redis.url names no sentinel"));
    for host in &sentinels.hosts {
        let asked = async {
            let info = format!("redis://{host}/").as_str().into_connection_info()?;
            let opened = within(One::open(&info, None)).await?;
            let mut sentinel = opened.ok_or((ErrorKind::InvalidClientConfig, "sentinels are asked without TLS"))?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("get-master-addr-by-name").arg(&sentinels.master);
            within(question.query_async::<Option<(String, u16)>>(&mut sentinel.connection)).await
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
    within_time(PATIENCE, operation).await
}

async fn within_time<T>(most: Duration, operation: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let timed_out = || std::io::Error::from(std::io::ErrorKind::TimedOut).into();
    tokio::time::timeout(most, operation).await.unwrap_or_else(|_| Err(timed_out()))
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
