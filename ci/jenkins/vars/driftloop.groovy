// Step of a shared library: validate, train and judge, open the change that pins the version, wait for its promotion.
//   driftloop(job: 'models/job.yaml', serviceFile: 'models/service.yaml', service: 'support-desk')
// Needs on the agent: driftloop, git, and gh for forge github; $KUBECONFIG and the credentials for the push.
def call(Map options) {
  def settings = [target: 'main', forge: 'push', runTimeout: '24h', promotionTimeout: '4h'] + options
  withEnv([
    "JOB=${settings.job}",
    "SERVICE_FILE=${settings.serviceFile}",
    "SERVICE=${settings.service}",
    "TARGET=${settings.target}",
    "FORGE=${settings.forge}",
    "RUN_TIMEOUT=${settings.runTimeout}",
    "PROMOTION_TIMEOUT=${settings.promotionTimeout}",
  ]) {
    stage('Validate') {
      sh 'driftloop validate --server -f "$JOB"'
    }
    stage('Train and judge') {
      env.VERSION = sh(returnStdout: true, script: 'driftloop run -f "$JOB" --suffix "$(git rev-parse --short=12 HEAD)" --timeout "$RUN_TIMEOUT" -o name').trim()
    }
    stage('Open the change') {
      sh 'driftloop lineage "$VERSION" > lineage.txt'
      sh 'driftloop propose -f "$SERVICE_FILE" --version "$VERSION" --target "$TARGET" --forge "$FORGE" --body-file lineage.txt'
    }
    stage('Wait for the promotion') {
      sh 'driftloop wait service "$SERVICE" --version "$VERSION" --timeout "$PROMOTION_TIMEOUT"'
    }
  }
}
