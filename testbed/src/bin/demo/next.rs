//! What to try next.

use anyhow::Result;
use testbed::{Binary, Release};

use crate::ground::{Ground, NAMESPACE};
use crate::voice::Voice;

/// Prints the commands. As long as everything is up they have the real address and the real key.
///
/// # Errors
/// kubectl cannot be found.
pub async fn print(ground: &Ground, release: &Release, voice: &Voice, keep: bool) -> Result<()> {
    if !keep {
        voice.title(
            "All of it was true, and it ends now. `cargo demo --keep` leaves it up, to try:",
        );
        voice.output(&commands("$URL", "$KEY"));
        return Ok(());
    }
    let kubectl = Binary::Kubectl.resolve().await?;
    let folder = kubectl.parent().unwrap_or(&kubectl).display();
    let kubeconfig = ground.cluster().kubeconfig().display();
    voice.title("All of it was true, and it stays up until Ctrl-C. In another terminal:");
    voice.output(&format!(
        "\nexport KUBECONFIG={kubeconfig} PATH={folder}:$PATH"
    ));
    voice.output(&commands(release.url(), release.key()));
    Ok(())
}

fn commands(url: &str, key: &str) -> String {
    format!(
        r#"
kubectl get personas,workerpools,personatopologies -n {NAMESPACE}
kubectl describe persona helper -n {NAMESPACE}
kubectl get pods -n {NAMESPACE} --watch
kubectl delete -n {NAMESPACE} -f examples/demo/nine-more.yaml   # and back to a pool each

curl -sS {url}/v1/chat/completions \
  -H "Authorization: Bearer {key}" -H 'Content-Type: application/json' \
  -d '{{"model": "{NAMESPACE}/helper", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
"#
    )
}
