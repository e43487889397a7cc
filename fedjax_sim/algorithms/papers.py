"""The papers behind the algorithms: titles, arXiv numbers, BibTeX."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Paper:
    """One paper.

    Attributes:
      key: its BibTeX key.
      title: as printed.
      authors: in BibTeX's form, joined by `and`.
      venue: where it appeared.
      year: of that.
      arxiv: the arXiv number.
    """

    key: str
    title: str
    authors: str
    venue: str
    year: int
    arxiv: str

    @property
    def bibtex(self) -> str:
        """The BibTeX entry."""
        fields = {
            "title": f"{{{self.title}}}",
            "author": self.authors,
            "booktitle": self.venue,
            "year": str(self.year),
            "eprint": self.arxiv,
            "archiveprefix": "arXiv",
        }
        body = ",\n".join(f"  {name:<13} = {{{value}}}" for name, value in fields.items())
        return f"@inproceedings{{{self.key},\n{body}\n}}"


FEDAVG = Paper(
    "mcmahan2017communication",
    "Communication-Efficient Learning of Deep Networks from Decentralized Data",
    "McMahan, H. Brendan and Moore, Eider and Ramage, Daniel and Hampson, Seth and "
    'Ag{\\"u}era y Arcas, Blaise',
    "Artificial Intelligence and Statistics (AISTATS)",
    2017,
    "1602.05629",
)
FEDAVGM = Paper(
    "hsu2019measuring",
    "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    "Hsu, Tzu-Ming Harry and Qi, Hang and Brown, Matthew",
    "NeurIPS Workshop on Federated Learning",
    2019,
    "1909.06335",
)
FEDOPT = Paper(
    "reddi2021adaptive",
    "Adaptive Federated Optimization",
    "Reddi, Sashank J. and Charles, Zachary and Zaheer, Manzil and Garrett, Zachary and "
    "Rush, Keith and Kone{\\v{c}}n{\\'y}, Jakub and Kumar, Sanjiv and McMahan, H. Brendan",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2003.00295",
)
FEDPROX = Paper(
    "li2020federated",
    "Federated Optimization in Heterogeneous Networks",
    "Li, Tian and Sahu, Anit Kumar and Zaheer, Manzil and Sanjabi, Maziar and "
    "Talwalkar, Ameet and Smith, Virginia",
    "Machine Learning and Systems (MLSys)",
    2020,
    "1812.06127",
)
FEDNOVA = Paper(
    "wang2020tackling",
    "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    "Wang, Jianyu and Liu, Qinghua and Liang, Hao and Joshi, Gauri and Poor, H. Vincent",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2020,
    "2007.07481",
)
SCAFFOLD = Paper(
    "karimireddy2020scaffold",
    "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
    "Karimireddy, Sai Praneeth and Kale, Satyen and Mohri, Mehryar and Reddi, Sashank and "
    "Stich, Sebastian and Suresh, Ananda Theertha",
    "International Conference on Machine Learning (ICML)",
    2020,
    "1910.06378",
)
MEDIAN = Paper(
    "yin2018byzantine",
    "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
    "Yin, Dong and Chen, Yudong and Ramchandran, Kannan and Bartlett, Peter",
    "International Conference on Machine Learning (ICML)",
    2018,
    "1803.01498",
)
PERTURBED = Paper(
    "jin2017escape",
    "How to Escape Saddle Points Efficiently",
    "Jin, Chi and Ge, Rong and Netrapalli, Praneeth and Kakade, Sham M. and Jordan, Michael I.",
    "International Conference on Machine Learning (ICML)",
    2017,
    "1703.00887",
)
NEGATIVE_CURVATURE = Paper(
    "carmon2018accelerated",
    "Accelerated Methods for Nonconvex Optimization",
    "Carmon, Yair and Duchi, John C. and Hinder, Oliver and Sidford, Aaron",
    "SIAM Journal on Optimization",
    2018,
    "1611.00756",
)
QFFL = Paper(
    "li2020fair",
    "Fair Resource Allocation in Federated Learning",
    "Li, Tian and Sanjabi, Maziar and Beirami, Ahmad and Smith, Virginia",
    "International Conference on Learning Representations (ICLR)",
    2020,
    "1905.10497",
)
TERM = Paper(
    "li2021tilted",
    "Tilted Empirical Risk Minimization",
    "Li, Tian and Beirami, Ahmad and Sanjabi, Maziar and Smith, Virginia",
    "International Conference on Learning Representations (ICLR)",
    2021,
    "2007.01162",
)
AFL = Paper(
    "mohri2019agnostic",
    "Agnostic Federated Learning",
    "Mohri, Mehryar and Sivek, Gary and Suresh, Ananda Theertha",
    "International Conference on Machine Learning (ICML)",
    2019,
    "1902.00146",
)
FEDMGDA = Paper(
    "hu2022federated",
    "Federated Learning Meets Multi-Objective Optimization",
    "Hu, Zeou and Shaloudegi, Kiarash and Zhang, Guojun and Yu, Yaoliang",
    "IEEE Transactions on Network Science and Engineering",
    2022,
    "2006.11489",
)
CFL = Paper(
    "sattler2021clustered",
    "Clustered Federated Learning: Model-Agnostic Distributed Multitask Optimization Under "
    "Privacy Constraints",
    'Sattler, Felix and M{\\"u}ller, Klaus-Robert and Samek, Wojciech',
    "IEEE Transactions on Neural Networks and Learning Systems",
    2021,
    "1910.01991",
)
FEDEM = Paper(
    "marfoq2021federated",
    "Federated Multi-Task Learning under a Mixture of Distributions",
    "Marfoq, Othmane and Neglia, Giovanni and Bellet, Aur{\\'e}lien and Kameni, Laetitia and "
    "Vidal, Richard",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2021,
    "2108.10252",
)
IFCA = Paper(
    "ghosh2020efficient",
    "An Efficient Framework for Clustered Federated Learning",
    "Ghosh, Avishek and Chung, Jichan and Yin, Dong and Ramchandran, Kannan",
    "Advances in Neural Information Processing Systems (NeurIPS)",
    2020,
    "2006.04088",
)
HYPCLUSTER = Paper(
    "mansour2020three",
    "Three Approaches for Personalization with Applications to Federated Learning",
    "Mansour, Yishay and Mohri, Mehryar and Ro, Jae and Suresh, Ananda Theertha",
    "arXiv preprint",
    2020,
    "2002.10619",
)
FEDGROUP = Paper(
    "duan2021fedgroup",
    "FedGroup: Efficient Federated Learning via Decomposed Similarity-Based Clustering",
    "Duan, Moming and Liu, Duo and Ji, Xinyuan and Liu, Renping and Liang, Liang and "
    "Chen, Xianzhang and Tan, Yujuan",
    "IEEE International Symposium on Parallel and Distributed Processing with Applications (ISPA)",
    2021,
    "2010.06870",
)
HIERFAVG = Paper(
    "liu2020client",
    "Client-Edge-Cloud Hierarchical Federated Learning",
    "Liu, Lumin and Zhang, Jun and Song, S. H. and Letaief, Khaled B.",
    "IEEE International Conference on Communications (ICC)",
    2020,
    "1905.06641",
)
