//! What to try next, with the real names and the real key.

use anyhow::Result;
use testbed::{Binary, Release};

use crate::ground::{Ground, NAMESPACE};
use crate::voice::Voice;

/// Prints the commands; they work as long as everything is up.
///
/// # Errors
/// kubectl cannot be found.
pub async fn print(ground: &Ground, release: &Release, voice: &Voice, keep: bool) -> Result<()> {
    if !keep {
        voice.title("All of it was true. To try it yourself: cargo demo --keep");
        return Ok(());
    }
    let kubectl = Binary::Kubectl.resolve().await?;
    let folder = kubectl.parent().unwrap_or(&kubectl).display();
    let kubeconfig = ground.cluster().kubeconfig().display();
    let (url, key) = (release.url(), release.key());
    voice.title("All of it was true, and it stays up until Ctrl-C. In another terminal:");
    voice.output(&format!(
        r#"
export KUBECONFIG={kubeconfig} PATH={folder}:$PATH
kubectl get personas,workerpools,personatopologies -n {NAMESPACE}
kubectl describe persona helper -n {NAMESPACE}
kubectl get pods -n {NAMESPACE} --watch
kubectl delete -f examples/demo/nine-more.yaml -n {NAMESPACE}   # the way back, after 30 s

curl -sS {url}/v1/chat/completions \
  -H "Authorization: Bearer {key}" -H 'Content-Type: application/json' \
  -d '{{"model": "{NAMESPACE}/helper", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
"#
    ));
    Ok(())
}
