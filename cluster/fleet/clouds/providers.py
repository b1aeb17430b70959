"""The three clouds that `ray up` knows: what to prepare, and how each says a machine, its disk and its spot market."""

from cluster.fleet.clouds.launcher import Provider, is_spot
from cluster.fleet.description import Cloud, Fleet, NodeKind


def _aws_provider(fleet: Fleet) -> str:
    return f"""provider:
  type: aws
  region: {fleet.clouds["aws"].place}
  # Ended, not stopped: a stopped node's disk goes on costing.
  cache_stopped_nodes: false
"""


def _aws_node(node: NodeKind, head: bool) -> str:
    market = "InstanceMarketOptions: {MarketType: spot}\n" if is_spot(node) else ""
    return f"""InstanceType: {node.machines["aws"]}
SecurityGroupIds: [sg-REPLACE]
IamInstanceProfile: {{Name: raystill-{"head" if head else "worker"}}}
{market}BlockDeviceMappings:
  - DeviceName: /dev/sda1
    Ebs: {{VolumeSize: {node.disk_gb}, VolumeType: gp3, Encrypted: true}}
# The token-bound metadata service, reachable from inside the container.
MetadataOptions: {{HttpTokens: required, HttpPutResponseHopLimit: 2}}
"""


AWS = Provider(
    file="cluster.yaml",
    title="AWS",
    once="""Replace what is written in CAPITALS below:
  sg-REPLACE     a security group that admits its own members on all ports, and port 22 from your address alone.
                 Left out, Ray makes one whose port 22 is open to the world.
  s3://BUCKET    where artifacts live; both instance profiles must be allowed to read and write it.
Instance profiles: raystill-head may also start and end instances and pass raystill-worker on to them.
""",
    provider=_aws_provider,
    auth="""auth:
  ssh_user: ubuntu
  # Without any open port, through AWS Session Manager:
  # ssh_proxy_use_node_id: true
  # ssh_proxy_command: aws ssm start-session --target %h --document-name AWS-StartSSHSession --parameters portNumber=%p
""",
    node=_aws_node,
    packages="boto3",
    environment=lambda fleet: f"AWS_REGION={fleet.clouds['aws'].place}",
)


def _gcp_provider(fleet: Fleet) -> str:
    region = fleet.clouds["gcp"].place
    return f"""provider:
  type: gcp
  region: {region}
  availability_zone: {region}-a
  project_id: PROJECT
"""


def _gcp_node(node: NodeKind, head: bool) -> str:
    market = (
        "{provisioningModel: SPOT, instanceTerminationAction: DELETE, onHostMaintenance: TERMINATE, automaticRestart: false}"
    )
    # Machines with GPUs cannot move to another host.
    stays = "{onHostMaintenance: TERMINATE, automaticRestart: true}"
    scheduling = market if is_spot(node) else stays
    return f"""machineType: {node.machines["gcp"]}
disks:
  - boot: true
    autoDelete: true
    type: PERSISTENT
    initializeParams:
      diskSizeGb: {node.disk_gb}
      sourceImage: projects/deeplearning-platform-release/global/images/family/IMAGE
networkInterfaces:
  - subnetwork: projects/PROJECT/regions/REGION/subnetworks/SUBNET
    accessConfigs: [{{name: External NAT, type: ONE_TO_ONE_NAT}}]
serviceAccounts:
  - email: raystill-{"head" if head else "worker"}@PROJECT.iam.gserviceaccount.com
    scopes: [https://www.googleapis.com/auth/cloud-platform]
scheduling: {scheduling}
"""


GCP = Provider(
    file="cluster/gcp.yaml",
    title="Google Cloud",
    once="""Replace what is written in CAPITALS below:
  PROJECT        the project's id, everywhere.
  REGION/SUBNET  a subnetwork of a network of your own, whose firewall admits its own members on all ports, and port 22
                 from your address alone. (The network `default` admits SSH from the world.)
  IMAGE          a family with GPU drivers and Docker; `gcloud compute images list --project deeplearning-platform-release
                 --no-standard-images` shows them.
  gs://BUCKET    where artifacts live; both service accounts must be allowed to read and write it.
Service accounts: raystill-head may also make and delete instances and act as raystill-worker.
""",
    provider=_gcp_provider,
    auth="auth:\n  ssh_user: ubuntu\n",
    node=_gcp_node,
    packages="google-api-python-client",
)


def _azure_provider(fleet: Fleet) -> str:
    return f"""provider:
  type: azure
  location: {fleet.clouds["azure"].place}
  resource_group: {fleet.name}
  cache_stopped_nodes: false
  # No node has a public address, so that nothing is open to the world: run `ray up` from inside the network (a VPN, or a
  # small machine in it). Ray's own security group would admit SSH from everywhere.
  use_internal_ips: true
"""


def _azure_node(node: NodeKind, head: bool) -> str:
    market = "\n  priority: Spot\n  evictionPolicy: Delete\n  billingProfile: {maxPrice: -1}" if is_spot(node) else ""
    return f"""azure_arm_parameters:
  vmSize: {node.machines["azure"]}
  # Has GPU drivers and Docker.
  imagePublisher: microsoft-dsvm
  imageOffer: ubuntu-hpc
  imageSku: "2204"
  imageVersion: latest
  osDiskSize: {node.disk_gb}{market}
"""


AZURE = Provider(
    file="cluster/azure.yaml",
    title="Azure",
    once="""Replace what is written in CAPITALS below:
  abfs://ACCOUNT@CONTAINER   where artifacts live: a storage account and a container in it. Ray makes an identity for the
                 nodes (ray-…-msi) in the resource group: give it the role Storage Blob Data Contributor on the account.
""",
    provider=_azure_provider,
    auth="auth:\n  ssh_user: ubuntu\n  ssh_private_key: ~/.ssh/id_rsa\n  ssh_public_key: ~/.ssh/id_rsa.pub\n",
    node=_azure_node,
    packages="azure-identity azure-mgmt-compute azure-mgmt-network azure-mgmt-resource msrestazure",
)

PROVIDERS: dict[Cloud, Provider] = {"aws": AWS, "gcp": GCP, "azure": AZURE}
